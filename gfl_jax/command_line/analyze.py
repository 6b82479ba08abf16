"""Figures that look into trained detectors."""

import argparse
import dataclasses

from etils.epath import Path

from gfl_jax.command_line.arguments import file_name, whole_number
from gfl_jax.command_line.setup import config_of
from gfl_jax.errors import UserError
from gfl_jax.files import require_writable
from gfl_jax.paths import as_path

TEXT = """\
Looks into trained detectors on their evaluation split: three figures, each with a table and a CSV.

  python main.py analyze --workdir=runs/gfl_trees
  python main.py analyze --workdir=runs/gfl runs/atss --only correlation
  python main.py analyze --workdir=runs/gfl_trees --only distributions --boxes 0 17
  python main.py analyze --config=configs/gfl_trees.py --only labels

correlation: predicted against actual IoU, over positives and detections, with Pearson's r.
labels: IoU and centerness of the positives, and the best ones of each true box; without a
work directory centerness alone.
distributions: of the sides of chosen boxes, beside the picture (detectors with general boxes)."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    command.add_argument("--workdir", type=as_path, metavar="DIR", help="a run of `train`")
    command.add_argument("--model", metavar="NAME", help="published weights, as `models` lists them")
    command.add_argument("more", nargs="*", type=as_path, metavar="DIR", help="more runs, to stand beside it")
    command.add_argument(
        "--config", type=file_name, metavar="FILE", help="instead of the work directories' config.json"
    )
    command.add_argument(
        "--output", type=as_path, metavar="DIR", help="default: DIR/analyze in the first work directory"
    )
    command.add_argument(
        "--only", nargs="+", choices=["correlation", "labels", "distributions"], help="default: all three"
    )
    command.add_argument(
        "--boxes",
        nargs="+",
        type=whole_number("--boxes", 0),
        metavar="N",
        help="draw the N-th best detections, from 0 on",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Does what the command says; returns the exit status."""
    from gfl_jax.analysis.analyze import analyze
    from gfl_jax.training.trained import Trained, load_published, load_run

    workdirs = [args.workdir, *args.more] if args.workdir else args.more
    if not workdirs and not args.config and not args.model:
        raise UserError(
            "analyze: give the --workdir of a run, or a --config to look at its labels alone, or a --model"
        )
    configs = [config_of(argparse.Namespace(config=args.config, workdir=w), overrides) for w in workdirs]
    if args.model or not configs:
        configs.insert(0, config_of(args, overrides))
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
