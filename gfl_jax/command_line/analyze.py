"""The `analyze` command: figures, tables and CSV files about trained detectors."""

import argparse
import dataclasses

from etils.epath import Path

from gfl_jax.command_line.arguments import file_name, whole_number
from gfl_jax.command_line.setup import config_from_args
from gfl_jax.errors import UserError
from gfl_jax.files import require_writable
from gfl_jax.paths import as_path

TEXT = """\
Analyzes trained detectors on their evaluation split: three figures, each with a table and a CSV file.

  python main.py analyze --workdir=runs/gfl_trees
  python main.py analyze --workdir=runs/gfl runs/atss --only correlation
  python main.py analyze --workdir=runs/gfl_trees --only distributions --boxes 0 17
  python main.py analyze --config=configs/gfl_trees.py --only labels

correlation: predicted against actual IoU with Pearson's r, for the positives and for the detections.

labels: IoU and centerness of the positives, and the highest of both for each ground-truth box. Without a
trained detector (--config alone), only centerness is available.

distributions: the distributions of the sides of selected boxes, drawn beside the image. The detector must
have general boxes (config.detector.box.kind="general").

All detectors are analyzed on the data set of the first one."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    command.add_argument("--workdir", type=as_path, metavar="DIR", help="work directory of `train`")
    command.add_argument("--model", metavar="NAME", help="published weights, listed by `models`")
    command.add_argument(
        "more", nargs="*", type=as_path, metavar="DIR", help="more work directories to compare with"
    )
    command.add_argument(
        "--config",
        type=file_name,
        metavar="FILE",
        help="config to use instead of the work directories' config.json",
    )
    command.add_argument(
        "--output",
        type=as_path,
        metavar="DIR",
        help="output directory (default analyze/ in the first work directory)",
    )
    command.add_argument(
        "--only",
        nargs="+",
        choices=["correlation", "labels", "distributions"],
        help="analyses to make (default all three)",
    )
    command.add_argument(
        "--boxes",
        nargs="+",
        type=whole_number("--boxes", 0),
        metavar="N",
        help="draw the N-th best detections, counted from 0 (default a selection)",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from gfl_jax.analysis.analyze import analyze
    from gfl_jax.training.trained import Trained, load_published, load_run

    workdirs = [args.workdir, *args.more] if args.workdir else args.more
    if not workdirs and not args.config and not args.model:
        raise UserError(
            "analyze: no detector is given; give the --workdir of a run, a --model, or a --config to analyze "
            "its labels only"
        )
    configs = [
        config_from_args(argparse.Namespace(config=args.config, workdir=w), overrides) for w in workdirs
    ]
    if args.model or not configs:
        configs.insert(0, config_from_args(args, overrides))
    name = args.model or configs[0].name
    output = args.output or (workdirs[0] if workdirs else Path("runs", name)) / "analyze"
    require_writable(output)
    # All detectors are compared on the same images.
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
