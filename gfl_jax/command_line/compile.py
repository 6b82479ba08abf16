"""The `compile` command: the cost of a config's programs, also on chips that this machine does not have."""

import argparse

from gfl_jax.command_line.arguments import add_config, whole_number
from gfl_jax.command_line.setup import config_from_args
from gfl_jax.files import require_writable_file
from gfl_jax.paths import as_path

TEXT = """\
Compiles the train step and inference, also for TPUs that this machine does not have, and reports their cost.

  python main.py compile --config=configs/gfl_r50_fpn_1x_coco.py --config.precision=bfloat16 \\
      --topology=v5e:4x4 --batch=4 --json=report.json
  python main.py compile --config=configs/gfl_r50_fpn_1x_coco.py --config.precision=bfloat16 \\
      --topology=v5e:1x1 --sweep=1,2,4,8,16 --only=train
  python main.py compile --config=configs/gfl_trees.py --find-batch --only=train

The report has the memory per chip by kind, the FLOPs, the data sent between chips, and whether each program
fits. For TPUs it also has the compiler's own estimate of where the cycles go. No weights are created. The
exit status is 1 if a program does not fit.

Compiling for TPU slices (v5e, v5p, v6e) needs libtpu but no TPU: pip install "libtpu==0.0.42.*". The train
step of GFL-R50 at 800x1344 takes three to five minutes to compile on 2 cores.

FLOPs and bytes of a loop are counted once; cycles are counted as often as the loop runs. With several test
scales or flips, inference is compiled for a single view, on the largest canvas."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_config(command)
    command.add_argument(
        "--topology",
        default="local",
        metavar="NAME",
        help="local, or a TPU slice such as v5e:4x4 (default local)",
    )
    command.add_argument(
        "--batch",
        type=whole_number("--batch", 1),
        metavar="N",
        help="images per chip (default the chip's share of the config's batch size)",
    )
    several = command.add_mutually_exclusive_group()
    several.add_argument(
        "--find-batch",
        action="store_true",
        help="find the batch that fits and has the most images per second, starting at --batch or 1; if the "
        "compiler does not estimate cycles, find the largest batch that fits",
    )
    several.add_argument(
        "--sweep",
        type=_batches,
        default=[],
        metavar="N,N",
        help="compile each of these batches (images per chip) and compare them",
    )
    command.add_argument("--size", metavar="HxW", help="canvas of the batches (default the largest bucket)")
    command.add_argument("--only", choices=["train", "inference"], help="program to compile (default both)")
    command.add_argument("--json", type=as_path, metavar="FILE", help="also write the report to this file")


def _batches(text: str) -> list[int]:
    return [whole_number("--sweep", 1)(number) for number in text.split(",")]


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from rich.console import Console

    from gfl_jax.compilation.report import PARTS, Report, make_report, write_json
    from gfl_jax.compilation.report_tables import report_tables
    from gfl_jax.compilation.topology import find_target
    from gfl_jax.data.buckets import parse_canvas

    config = config_from_args(args, overrides)
    if args.json:
        require_writable_file(args.json)

    def keep(report: Report) -> None:
        if args.json:
            write_json(report, args.json)

    report = make_report(
        config,
        find_target(args.topology),
        parts=[args.only] if args.only else PARTS,
        images_per_chip=args.batch,
        canvas=parse_canvas(args.size) if args.size else None,
        find_batch=args.find_batch,
        sweep=args.sweep,
        say=lambda text: print(text, flush=True),
        keep=keep,
    )
    Console().print(report_tables(report))
    return 0 if report.fits else 1
