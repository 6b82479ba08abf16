"""What programs cost on chips that need not be there."""

import argparse

from gfl_jax.command_line.arguments import file_name, whole_number
from gfl_jax.command_line.setup import config_of
from gfl_jax.files import require_writable_file
from gfl_jax.paths import as_path

TEXT = """\
Compiles the train step and the inference for chips that need not be there, and says what they cost:
memory per chip by kind, FLOPs, what is sent between chips, whether it fits, and, for TPUs, where the
cycles go by the compiler's own guess. No weights are made. Exit status 1 if it does not fit.

  python main.py compile --config=configs/gfl_r50_fpn_1x_coco.py --config.precision=bfloat16 \\
      --topology=v5e:4x4 --batch=4 --json=report.json
  python main.py compile --config=configs/gfl_r50_fpn_1x_coco.py --config.precision=bfloat16 \\
      --topology=v5e:1x1 --sweep=1,2,4,8,16 --only=train
  python main.py compile --config=configs/gfl_trees.py --find-batch --only=train

TPU slices (v5e, v5p, v6e) are compiled for by libtpu, without a TPU: pip install "libtpu==0.0.42.*".
A train step of GFL-R50 at 800x1344 takes three to five minutes on 2 cores. FLOPs and bytes of a loop
are counted once, cycles as often as it runs. With several test scales or flips, inference is
compiled for a single view, on the largest canvas."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    command.add_argument("--config", required=True, type=file_name, metavar="FILE", help="a file of configs/")
    command.add_argument(
        "--topology", default="local", metavar="NAME", help="a TPU slice such as v5e:4x4; default: local"
    )
    command.add_argument(
        "--batch",
        type=whole_number("--batch", 1),
        metavar="N",
        help="images per chip; default: the chip's share of the config's",
    )
    several = command.add_mutually_exclusive_group()
    several.add_argument(
        "--find-batch",
        action="store_true",
        help="search, from --batch or 1 on, the batch with the most images a second that fits; where the "
        "compiler does not guess cycles, the largest that fits",
    )
    several.add_argument(
        "--sweep",
        type=_batches,
        default=[],
        metavar="N,N",
        help="compile each of these batches, images per chip, to choose one",
    )
    command.add_argument("--size", metavar="HxW", help="of the batches; default: the largest bucket")
    command.add_argument("--only", choices=["train", "inference"], help="default: both")
    command.add_argument("--json", type=as_path, metavar="FILE", help="write the report here too")


def _batches(text: str) -> list[int]:
    return [whole_number("--sweep", 1)(number) for number in text.split(",")]


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Does what the command says; returns the exit status."""
    from rich.console import Console

    from gfl_jax.compilation.report import PARTS, Report, make_report, write_json
    from gfl_jax.compilation.report_tables import report_tables
    from gfl_jax.compilation.topology import find_target
    from gfl_jax.data.buckets import parse_canvas

    config = config_of(args, overrides)
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
