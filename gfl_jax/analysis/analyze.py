"""The three analyses of trained detectors. Each makes a figure, a printed table and a CSV file."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import rich
from etils.epath import Path

from gfl_jax.analysis.collect import Collected, collect
from gfl_jax.analysis.correlation import correlation_table, plot_correlation
from gfl_jax.analysis.distribution_plot import plot_distributions
from gfl_jax.analysis.distributions import check_indices, choose, distribution_table, probability_table
from gfl_jax.analysis.labels import label_rows, label_tables, plot_labels
from gfl_jax.analysis.measure import make_label_measure, make_measure
from gfl_jax.analysis.text_tables import Table, for_console, write_csv
from gfl_jax.axes.box_representation import bins
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError, error_line
from gfl_jax.evaluation.evaluate import open_evaluation
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import make_mesh, put_everywhere
from gfl_jax.training.trained import Trained

ANALYSES = ("correlation", "labels", "distributions")


def analyze(
    runs: Sequence[Trained],
    output: Path,
    only: Sequence[str] | None = None,
    boxes: Sequence[int] | None = None,
) -> list[Path]:
    """Analyzes detectors on their evaluation splits: prints tables, draws figures and writes CSV files.

    Args:
      runs: detectors with different names; of one without variables, only the labels are analyzed.
      output: the folder of the PNG and CSV files.
      only: the analyses to make, from ANALYSES; None: all that are possible, with a line about the others.
      boxes: the detections whose distributions are drawn, numbered from 0 by score over the split; None: the
        sharpest, flattest and most two-peaked ones.

    Returns:
      The written files.

    Raises:
      UserError: `only` has an analysis that these detectors do not allow, or `boxes` a missing detection.
    """
    general = [run for run in runs if run.variables is not None and run.config.detector.box.kind == "general"]
    wanted = _possible(runs, len(general), only)
    written: list[Path] = []
    failures = _Failures()
    collected: dict[str, Collected] = {}
    for run in runs:
        with failures.kept():
            collected[run.name] = _collect(run)
    runs = [run for run in runs if run.name in collected]
    if "correlation" in wanted and runs:
        with failures.kept():
            qualities = {run.name: (run.config.detector.quality, collected[run.name]) for run in runs}
            table = correlation_table(qualities)
            path = output / "correlation.png"
            written += _write(path, [table], table, lambda path: plot_correlation(qualities, path))
    if "labels" in wanted and runs:
        with failures.kept():
            path, tables = output / "labels.png", label_tables(collected)
            written += _write(path, tables, label_rows(collected), lambda path: plot_labels(collected, path))
    if "distributions" in wanted:
        for run in general:
            if run in runs:
                with failures.kept():
                    written += _distributions(run, collected[run.name], output, boxes)
    failures.raise_first()
    return written


class _Failures:
    """Collects errors, so that one failed part does not stop the others; raises the first at the end."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._errors.append(error)

    def raise_first(self) -> None:
        for error in self._errors[1:]:
            logging.error("%s", error_line(error) or repr(error))
        if self._errors:
            raise self._errors[0]


def _possible(runs: Sequence[Trained], num_general: int, only: Sequence[str] | None) -> set[str]:
    """Chooses the analyses to make. Prints why others are left out, or raises if `only` has one of them."""
    reasons = {}
    if any(run.variables is None for run in runs):
        reason = "needs a trained detector; give its --workdir"
        reasons = {"correlation": reason, "distributions": reason}
    elif not num_general:
        kind = runs[0].config.detector.box.kind
        reasons["distributions"] = (
            f"config.detector.box.kind={kind!r} has no distributions; give a --workdir with 'general' boxes"
        )
    for name, reason in reasons.items():
        if only and name in only:
            raise UserError(f"--only={name}: {reason}")
        if not only:
            print(f"left out: {name}: {reason}")
    return set(only or ANALYSES) - set(reasons)


def _evaluation_data(run: Trained) -> Source:
    owner = None if run.variables is None else run.name
    return open_evaluation(run.config, run.classes, owner)


def _collect(run: Trained) -> Collected:
    config, mesh, source = run.config, make_mesh(), _evaluation_data(run)
    if run.variables is None:
        return collect(make_label_measure(config.detector), None, source, config, mesh)
    model = build_detector(config.detector, config.precision)
    measure = make_measure(model, config.normalization, config.inference)
    return collect(measure, put_everywhere(run.variables, mesh), source, config, mesh)


def _distributions(
    run: Trained, collected: Collected, output: Path, boxes: Sequence[int] | None
) -> list[Path]:
    detections, values = collected.detections, np.asarray(bins(run.config.detector.box))
    assert detections is not None
    check_indices(boxes or (), len(detections.scores))
    groups = {"box": np.array(boxes)} if boxes else choose(detections)
    if not any(map(len, groups.values())):
        print(f"left out: distributions of {run.name}: it detects nothing")
        return []
    path = output / f"distributions_{run.name.replace('/', '_')}.png"
    table = distribution_table(run.name, detections, groups)

    def draw(path: Path) -> None:
        example = _evaluation_data(run).example
        plot_distributions(
            detections, groups, values, example, path, f"{run.name}: distributions of the box sides"
        )

    return _write(path, [table], probability_table(detections, groups, values), draw)


def _write(figure: Path, printed: list[Table], written: Table, draw: Callable[[Path], None]) -> list[Path]:
    """Writes a CSV file and draws the figure; prints the tables and the names of both files."""
    files = [figure, Path(f"{str(figure).removesuffix('.png')}.csv")]
    write_csv(files[1], written)
    for table in printed:
        rich.get_console().print(for_console(table))
    draw(figure)
    for file in files:
        print(file)
    return files
