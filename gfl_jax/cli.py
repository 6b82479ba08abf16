"""The command line: what its commands do and print, and its exit status.

Commands import what they need when they run, so that `--help` answers at once.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils.epath import Path

from gfl_jax.arguments import config_overrides, make_parser
from gfl_jax.comparison.rows import Row, load_table, row_config, select_rows
from gfl_jax.config import Config
from gfl_jax.config_files import config_from_json, load_config
from gfl_jax.errors import UserError, exit_status
from gfl_jax.experiment_check import check_experiment
from gfl_jax.files import require_writable, require_writable_file, write_file
from gfl_jax.overrides import parse_overrides
from gfl_jax.paths import as_path
from gfl_jax.pretrained.published import require_detector

if TYPE_CHECKING:
    from gfl_jax.trained import Trained


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status.

    0, 1 (a check or some of a list failed, or nobody reads the output), 2 (bad input), 3 (another process of
    the run was lost), 130 (Ctrl-C), 143 (SIGTERM, after which a training run has saved its state).
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("gfl_jax").setLevel(logging.INFO)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it logs it raises too
    logging.captureWarnings(True)

    def command() -> int:
        parser = make_parser()
        args, rest = parser.parse_known_args(arguments)
        return int(_COMMANDS[args.command](args, config_overrides(rest, parser)))

    try:
        return exit_status(command)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _processes(args: argparse.Namespace, stop_together: bool) -> contextlib.AbstractContextManager[None]:
    """The block in which a command asks anything of jax."""
    from gfl_jax.launch import find_launch

    flags = {name: getattr(args, name) for name in ("coordinator", "num_processes", "process_id")}
    launch = find_launch(os.environ, flags, args.distributed)
    if launch is None:
        return contextlib.nullcontext()
    from gfl_jax.distributed import processes

    return processes(launch, args.heartbeat_seconds, stop_together)


def _config(args: argparse.Namespace, overrides: dict[str, str]) -> Config:
    """The config of --config, or that of the model or of the work directory, with the overrides."""
    if getattr(args, "model", None):
        require_detector(args.model)
    if args.config or getattr(args, "model", None):
        config = load_config(args.config or args.model)
    else:
        path = args.workdir / "config.json"
        if not path.is_file():
            raise UserError(
                f"{path}: there is no such file; name a work directory of `train`, or give --config"
            )
        config = config_from_json(path)
    config = parse_overrides(config, overrides)
    check_experiment(config)
    return config


def _trained(args: argparse.Namespace, config: Config) -> "Trained":
    """The detector of --model or --workdir."""
    from gfl_jax.trained import load_published, load_run

    if args.model and args.checkpoint:
        raise UserError(f"--checkpoint={args.checkpoint}: is of a --workdir; leave it out with --model")
    if args.model:
        return load_published(args.model, config)
    return load_run(args.workdir, config, args.checkpoint)


def _place(args: argparse.Namespace) -> Path:
    """Where outputs go if nothing is said: the work directory, or a folder of the model's name."""
    return args.workdir or Path("runs") / args.model


def _train(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    with _processes(args, stop_together=True):
        from gfl_jax.agreement import is_first
        from gfl_jax.training.loop import train
        from gfl_jax.training.profile import parse_steps
        from gfl_jax.training.stop import StopRequest

        stop = StopRequest()
        profile_steps = None if args.profile is None else parse_steps(args.profile)
        config = _config(args, overrides)
        if is_first():
            require_writable(args.workdir)
        train(config, args.workdir, stop, profile_steps)
    return stop.status


def _evaluate(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    with _processes(args, stop_together=False):
        _evaluate_here(args, overrides)
    return 0


def _evaluate_here(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from rich.console import Console

    from gfl_jax.agreement import is_first
    from gfl_jax.data.loader import tell_shapes
    from gfl_jax.evaluation.coco_metrics import class_table, metrics_table
    from gfl_jax.evaluation.evaluate import evaluate_source, open_evaluation
    from gfl_jax.evaluation.results import Result, looks_like_results, write_results
    from gfl_jax.evaluation.snapshots import save_snapshots, snapshot_paths
    from gfl_jax.inference.test_time_augmentation import make_detect_in_views
    from gfl_jax.mesh import make_mesh, put_everywhere
    from gfl_jax.models.detector import build_detector
    from gfl_jax.output_names import require_free

    config = _config(args, overrides)
    output = args.output or _place(args) / "evaluate" / (
        config.dataset.eval_split if config.dataset.tfds_dir else ""
    )
    if is_first():
        require_writable(output)
    trained = _trained(args, config)
    source = open_evaluation(config, trained.classes, trained.name)
    tell_shapes(source, config, training=False)
    written = [output / "results.json", output / "metrics.json"]
    written += snapshot_paths(output, "", source, args.pictures)
    images = config.dataset.eval_images
    inputs = [as_path(images) / name for name in source.file_names] if images else []
    require_free(written, inputs, may_replace=looks_like_results(written[0]))
    mesh = make_mesh()
    variables = put_everywhere(trained.variables, mesh)
    model = build_detector(config.detector, config.precision)
    detect = make_detect_in_views(model, config.normalization, config.inference, mesh)

    def keep(results: Sequence[Result]) -> None:
        if is_first():
            (output / "metrics.json").unlink(missing_ok=True)  # of other detections
            write_results(output / "results.json", results)

    metrics, results = evaluate_source(detect, variables, source, config, mesh, args.backend, keep)
    if not is_first():
        return
    if metrics is not None:
        write_file(output / "metrics.json", json.dumps(metrics.scalars(), indent=1))
    console = Console()
    if metrics is None:
        print(f"{source.name}: has no annotations, so there are no metrics")
    else:
        if len(metrics.classes) > 1:
            console.print(class_table(metrics))
        console.print(metrics_table(metrics))
    print(f"{len(results)} detections in {len(source)} pictures: {output}/results.json")
    pictures = save_snapshots(output, "", source, results, args.pictures)
    print(f"{len(pictures)} pictures with the true boxes and the detected ones, in {output}")


def _predict(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from gfl_jax.predict_inputs import predict_inputs

    config = _config(args, overrides)
    output = args.output or _place(args) / "predict"
    trained = _trained(args, config)
    classes = trained.named_classes()
    require_writable(output)
    return predict_inputs(config, trained.variables, classes, args.inputs, output, args.min_score)


def _compare(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rich.console import Console

    from gfl_jax.comparison.runs import compare_rows
    from gfl_jax.comparison.table import comparison_table, csv_text, markdown
    from gfl_jax.training.stop import StopRequest

    file, module = load_table(args.table)
    rows = select_rows(module.ROWS, args.rows)
    workdir = args.workdir or Path("runs") / f"{file.stem}_{args.dataset}"

    def make_config(row: Row) -> Config:
        config = parse_overrides(row_config(file, row, args.dataset), overrides)
        check_experiment(config)
        return config

    require_writable(workdir)
    stop, failed = StopRequest(), list[str]()
    results = compare_rows(rows, make_config, args.seeds, workdir, stop=stop, failed=failed)
    table = comparison_table(f"{module.TITLE} ({args.dataset})", rows, results)
    with Console(width=200).capture() as text:  # a file is not folded
        Console(width=200).print(table)
    write_file(workdir / "table.txt", text.get())
    write_file(workdir / "table.md", markdown(rows, results))
    write_file(workdir / "results.csv", csv_text(rows, results))
    Console().print(table)
    print(f"the table as text, Markdown and CSV: {workdir}/table.txt, table.md, results.csv")
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return stop.status or int(bool(failed))


def _analyze(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from gfl_jax.analysis.analyze import analyze
    from gfl_jax.trained import Trained, load_published, load_run

    workdirs = [args.workdir, *args.more] if args.workdir else args.more
    if not workdirs and not args.config and not args.model:
        raise UserError(
            "analyze: give the --workdir of a run, or a --config to look at its labels alone, or a --model"
        )
    configs = [_config(argparse.Namespace(config=args.config, workdir=w), overrides) for w in workdirs]
    if args.model or not configs:
        configs.insert(0, _config(args, overrides))
    name = args.model or configs[0].name
    output = args.output or (workdirs[0] if workdirs else Path("runs", name)) / "analyze"
    require_writable(output)
    # All of them are shown the same images.
    configs = [dataclasses.replace(config, dataset=configs[0].dataset) for config in configs]
    runs: list[Trained] = []
    if args.model:
        runs.append(load_published(args.model, configs[0]))
    for workdir, config in zip(workdirs, configs[len(runs) :], strict=False):
        taken = workdir.name in (run.name for run in runs)
        name = f"{workdir.name}_{len(runs) + 1}" if taken else workdir.name
        runs.append(load_run(workdir, config)._replace(name=name))
    runs = runs or [Trained(name, configs[0], variables=None, classes=None)]
    analyze(runs, output, args.only, args.boxes)
    return 0


def _models(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rich.console import Console

    from gfl_jax.pretrained.published import models_table

    Console().print(models_table())
    return 0


def _export(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from gfl_jax.export import export_detector, loader_code

    config = _config(args, overrides)
    trained = _trained(args, config)
    canvas = (args.height, args.width)
    export_detector(
        config, trained.variables, trained.named_classes(), args.output, canvas, args.platforms, args.batch
    )
    print(f"the detector: {args.output}\nits classes and sizes: {args.output}.json\n")
    print(f"to run it with jax and flatbuffers alone:\n\n{loader_code(str(args.output))}")
    return 0


def _compile(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rich.console import Console

    from gfl_jax.compilation.report import PARTS, Report, make_report, write_json
    from gfl_jax.compilation.tables import report_tables
    from gfl_jax.compilation.topology import find_target
    from gfl_jax.data.buckets import parse_canvas

    config = _config(args, overrides)
    if args.json:
        require_writable_file(args.json)

    def keep(report: Report) -> None:
        if args.json:
            write_json(report, args.json)

    report = make_report(
        config,
        find_target(args.topology),
        parts=[args.only] if args.only else PARTS,
        pictures_per_chip=args.batch,
        canvas=parse_canvas(args.size) if args.size else None,
        find_batch=args.find_batch,
        say=lambda text: print(text, flush=True),
        keep=keep,
    )
    Console().print(report_tables(report))
    return 0 if report.fits else 1


def _verify(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from gfl_jax.plain import plain
    from gfl_jax.verification.verify import DEFAULT_CONFIG, DETECTORS, verify_default, verify_file

    if args.reference:
        config = parse_overrides(load_config(args.config or DEFAULT_CONFIG), overrides)
        rows = verify_file(args.reference, config, args.dtype)
    else:
        rows = verify_default(args.dtype, list(DETECTORS) if args.detector == "all" else [args.detector])
    console = Console()
    table = Table("part", "largest relative deviation", "tolerance", "verdict")
    failed = 0
    with console.status("compiling and computing") as status:
        for row in rows:
            status.update(plain(row.part))
            failed += not row.passed
            verdict = "passed" if row.passed else "[red]FAILED[/red]"
            table.add_row(plain(row.part), f"{row.deviation:.1e}", f"{row.tolerance:.0e}", verdict)
    console.print(table)
    print(f"{table.row_count - failed} passed, {failed} failed in {args.dtype}")
    return int(failed > 0)


_COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "compare": _compare,
    "analyze": _analyze,
    "models": _models,
    "compile": _compile,
    "verify": _verify,
}
