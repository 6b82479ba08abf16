"""Measures the input pipeline, ATSS, deformable convolutions, inference and training in one table.

python scripts/benchmark.py
python scripts/benchmark.py --parts=atss,train --repeats=15
python scripts/benchmark.py --input --config=configs/gfl_r50_fpn_1x_coco.py
python scripts/benchmark.py --table=2
python scripts/benchmark.py --markdown > benchmarks/MACHINE.md
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

from gfl_jax.config import Config  # noqa: E402
from gfl_jax.configuration.config_files import load_config  # noqa: E402
from gfl_jax.data.buckets import parse_canvas  # noqa: E402
from gfl_jax.errors import UserError, exit_status  # noqa: E402

PARTS = ("input", "atss", "deform", "inference", "train")
TABLE_2 = ROOT / "configs" / "table_2.py"
MODELS = (
    "gfl,r50",
    "atss,r50",
    "gfl,r101",
    "gfl,r101_dcn",
    "gfl,x101_32x4d",
    "atss,x101_32x4d",
    "atss,x101_32x8d",
)
CONFIG = ROOT / "configs" / "gfl_r50_fpn_1x_coco.py"

DESCRIPTION = """\
Measures this machine and prints one table. The two sides of a comparison are measured in turns,
round by round, and the table gives their ratio.

  input      training batches from JPEG images of 480x640 (height x width), with 0, 1, 2, 4 and 8
             worker processes as far as there are cores: images/s in total and for each worker
  atss       the targets of 100 boxes in each image, from a window around each box, against the
             full matrix of boxes and locations, for 1 and 2 images
  deform     a 3x3 deformable convolution, by gathers and by products, against a plain one at the size
             of C4, forward and with all gradients: 256 channels, and 1024 channels in 32 groups
  inference  from uint8 images to detections, against the network's forward pass
  train      a whole train step, from uint8 images to new parameters, against the forward pass;
             on a CPU with and without gfl_jax's own gradient of convolution kernels

--input is short for --parts=input. It shows whether this machine reads images as fast as its
devices train on them, with the resize or the crops of --config.

--table=2 measures instead each model of the paper's Table II, and models with smaller backbones:
the network alone, and the whole way from uint8 images to detections.

Inference and training run on one device: in float32 on a CPU, also in bfloat16 on other devices.
The table goes to stdout, progress to stderr if that is a terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 2 after bad input."""
    words = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> int:
        run(_parser().parse_args(words), shlex.join(["python", "scripts/benchmark.py", *words]))
        return 0

    return exit_status(command)


def run(args: argparse.Namespace, command: str) -> None:
    """Measures and prints the table. `command` is the command that the Markdown names.

    Raises:
      UserError: an argument is bad, or the device's memory is too small.
    """
    parts = [] if args.table else _parts("input" if args.input else args.parts)
    size = parse_canvas(args.size) if args.size else None
    for name, value in (("--repeats", args.repeats), ("--batch", args.batch)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
    config = load_config(args.config)

    # Not at the top: the workers of the input pipeline import this file too.
    import jax
    from benchmarks.assignment import assignment_rows
    from benchmarks.deformable import deformable_rows
    from benchmarks.detector import detector_rows
    from benchmarks.input_pipeline import input_rows
    from benchmarks.measure import Row
    from benchmarks.models import model_rows
    from benchmarks.report import LEGEND, available_cores, describe_machine, make_table

    on_cpu = jax.default_backend() == "cpu"
    groups: list[list[Row]] = []
    too_large = None
    with Console(stderr=True).status("starting", refresh_per_second=2) as status:
        if args.table:
            models = _models(args.models)
            batch_sizes = (args.batch,) if args.batch else (1,) if on_cpu else (1, 16)
            precisions = ("float32",) if on_cpu else ("float32", "bfloat16")
            canvas = size or (800, 1344)
            groups += model_rows(models, batch_sizes, canvas, precisions, args.repeats, status.update)
        if "input" in parts:
            workers = [n for n in (0, 1, 2, 4, 8) if n <= available_cores()]
            groups.append(input_rows(config, args.batch or 16, workers, args.repeats, status.update))
        if "atss" in parts:
            groups += assignment_rows(config.detector, size or (800, 1344), args.repeats, status.update)
        if "deform" in parts:
            groups += deformable_rows(args.batch or 1, size or (800, 1344), args.repeats, status.update)
        if "inference" in parts or "train" in parts:
            batch_size, canvas = (2, (416, 416)) if on_cpu else (16, (800, 1344))
            batch_size, canvas = args.batch or batch_size, size or canvas
            try:
                groups.append(detector_rows(config, parts, batch_size, canvas, args.repeats, status.update))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                too_large = UserError(f"--batch={batch_size}: too large for the device's memory; lower it")

    # Lines for a file or a pipe are not wrapped.
    console = Console() if sys.stdout.isatty() and not args.markdown else Console(width=300)
    if args.markdown:
        title = "Models of Table II" if args.table else config.name
        print(f"# {title}\n\n    {command}\n\n{describe_machine()}\n")
    with console.capture() as capture:
        console.print(make_table(groups, args.markdown))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    print("\n".join(line for line in lines if line or not args.markdown))
    print(f"\n{LEGEND}")
    if too_large:
        raise too_large


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=raw, allow_abbrev=False)

    def add(name: str, text: str, **options: object) -> None:
        parser.add_argument(name, help=text, **options)  # type: ignore[arg-type]

    add("--parts", "parts to measure, separated by commas (default %(default)s)", default=",".join(PARTS))
    add("--input", "measure only the input pipeline", action="store_true")
    add("--repeats", "rounds after the warm-up (default %(default)s)", type=int, default=7, metavar="N")
    add("--batch", "images in a batch (default 16; 2 for a network on a CPU)", type=int, metavar="N")
    add(
        "--size",
        "size of images on the device (default 800x1344; 416x416 for a network on a CPU)",
        metavar="HxW",
    )
    add("--table", "measure the models of this table instead of parts", choices=["2"])
    models = "models of the table, as DETECTOR,BACKBONE;DETECTOR,BACKBONE (default %(default)s)"
    add("--models", models, default=";".join(MODELS), metavar="NAMES")
    add("--config", f"config file (default configs/{CONFIG.name})", default=str(CONFIG), metavar="FILE")
    add("--markdown", "print Markdown with the command, the machine and the versions", action="store_true")
    return parser


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    for part in parts:
        if part not in PARTS:
            raise UserError(f"--parts={text}: there is no part {part!r}; parts are: {', '.join(PARTS)}")
    return parts


def _models(text: str) -> dict[str, Config]:
    models = {}
    for name in text.split(";"):
        detector, _, backbone = name.partition(",")
        models[f"{detector} {backbone}"] = load_config(f"{TABLE_2}:detector={detector},backbone={backbone}")
    return models


if __name__ == "__main__":
    sys.exit(main())
