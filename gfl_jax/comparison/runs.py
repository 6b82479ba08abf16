"""Trains and evaluates the rows of a table, each with several seeds. Resumes where it stopped."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence

import jax
from etils.epath import Path

from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configuration.config_files import config_differences, config_from_fields
from gfl_jax.configuration.overrides import override
from gfl_jax.errors import UserError, error_line
from gfl_jax.files import read_file, write_file
from gfl_jax.paths import absolute
from gfl_jax.training.checkpoint import DATA_PATH_FIELDS
from gfl_jax.training.loop import train
from gfl_jax.training.run_data import FILE as DATA_FILE
from gfl_jax.training.run_data import open_run_data
from gfl_jax.training.start import check_start
from gfl_jax.training.stop import StopRequest

Metrics = dict[str, float]  # AP, AP50, ...: the COCO metrics by name
Results = dict[str, list[Metrics]]  # by the name of the row, one entry for each seed


def compare_rows(
    rows: Sequence[Row],
    make_config: Callable[[Row], Config],
    seeds: int,
    workdir: Path,
    say: Callable[[str], None] = print,
    stop: StopRequest | None = None,
    failed: list[str] | None = None,
) -> Results:
    """Trains and evaluates every row with every seed. The results of finished runs are read from disk.

    The runs are in WORKDIR/NAME_seed_N. All rows run with their first seed before any runs with its
    second. Thus an interrupted comparison is a comparison with fewer seeds.

    Args:
      rows: the rows of the table.
      make_config: returns the config of a row. Its seed is replaced, and its teacher if the row has one.
      seeds: the number of seeds, counted from 0.
      workdir: the folder of the runs.
      say: is called with a line for each run.
      stop: holds afterwards the signal by which a run was asked to stop.
      failed: gets a line for each failed run, and the others continue; None: the first failure ends all.

    Returns:
      The metrics so far: those of all runs, unless one was asked to stop (Ctrl-C, SIGTERM).

    Raises:
      UserError: an existing run has another configuration or other data, a row lacks the weights that it
        starts from, or all runs failed.
    """
    stop = stop or StopRequest()
    results: Results = {row.name: [] for row in rows}
    done: list[Path] = []
    jobs = [(seed, row) for seed in range(seeds) for row in rows]
    first_error: Exception | None = None

    def folder_of(name: str, seed: int) -> Path:
        return workdir / f"{name}_seed_{seed}"

    def config_of(row: Row, seed: int) -> Config:
        config = dataclasses.replace(make_config(row), seed=seed)
        if row.teacher is None:
            return config
        return override(config, {"distillation.teacher": str(folder_of(row.teacher, seed))})

    for seed, row in jobs:  # check all runs before training any
        config, folder = config_of(row, seed), folder_of(row.name, seed)
        if read_result(folder, config) is None:
            check_start(config, folder)
    # Runs of one row differ only in the seed, so the later ones reuse the compiled programs of the first.
    with compilation_cache(workdir / "compiled"):
        for number, (seed, row) in enumerate(jobs, start=1):
            config, folder = config_of(row, seed), folder_of(row.name, seed)
            metrics = read_result(folder, config)
            if metrics is None:
                if done and (done[0] / DATA_FILE).is_file():
                    open_run_data(config, done[0])  # raises if the data have changed
                say(f"run {number} of {len(jobs)}: {row.column}, {row.label}, seed {seed}: {folder}")
                try:
                    metrics = train(config, folder, stop)
                except Exception as error:
                    message = error_line(error)
                    if failed is None or message is None:
                        raise
                    failed.append(f"{folder}: {message}")
                    first_error = first_error or error
                    continue
                finally:
                    jax.clear_caches()
                if stop.status:
                    break
                if not metrics:
                    raise UserError(
                        f"{folder}: has no metrics: config.dataset names no evaluation data; name some"
                    )
                write_result(folder, config, metrics)
            results[row.name].append(metrics)
            done.append(folder)
    if first_error is not None and not any(results.values()):
        raise first_error
    return results


@contextlib.contextmanager
def compilation_cache(folder: Path) -> Iterator[None]:
    """Keeps compiled programs in a folder while the block runs."""
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", str(absolute(folder)))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def write_result(folder: Path, config: Config, metrics: Metrics) -> None:
    """Writes the final metrics of a run, with the configuration that they belong to."""
    content = {"config": dataclasses.asdict(config), "metrics": metrics}
    write_file(folder / "result.json", json.dumps(content, indent=1))


def read_result(folder: Path, config: Config) -> Metrics | None:
    """Reads the final metrics of a run. None if it has not ended.

    Raises:
      UserError: they belong to another configuration, or cannot be read.
    """
    file = folder / "result.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(read_file(file))
        saved, metrics = config_from_fields(content["config"], str(file)), dict(content["metrics"])
    except (UserError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error!r}); delete the file to evaluate again") from error
    names = [name for name in config_differences(config, saved) if not name.startswith(DATA_PATH_FIELDS)]
    if names:
        raise UserError(
            f"{folder}: has the result of another configuration, different in {', '.join(names)}; "
            "give another --workdir"
        )
    return metrics
