"""The `export` command: a trained detector as one file."""

import argparse

from gfl_jax.command_line.arguments import add_trained, whole_number
from gfl_jax.command_line.setup import config_from_args, detector_from_args
from gfl_jax.paths import as_path

TEXT = """\
Exports a trained detector to one file that runs with jax and flatbuffers alone, on several platforms.

  python main.py export --model=gfl_trees --output=gfl_trees.jaxexport --height=1056 --width=1280
  python main.py export --workdir=runs/gfl_r50 --output=gfl.jaxexport --height=800 --width=1344 --batch=1

The exported detector takes uint8 images on a canvas of this size, with their heights and widths. It returns
boxes, scores, labels and a mask. FILE.json, next to the file, has the names of the classes and the resize.

Images are put in the upper left corner of a canvas of this size. Test scales and flips are not exported:
the file detects in one view of an image."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_trained(command)
    command.add_argument("--output", type=as_path, metavar="FILE", required=True, help="file to write")
    for side in ("height", "width"):
        command.add_argument(
            f"--{side}",
            type=whole_number(f"--{side}"),
            metavar=side[0].upper(),
            help=f"{side} of the canvas in pixels, a multiple of 32 (default that of the largest bucket)",
        )
    command.add_argument(
        "--batch",
        type=whole_number("--batch"),
        metavar="N",
        help="images per call (default any number)",
    )
    command.add_argument(
        "--platforms",
        nargs="+",
        default=["cpu", "cuda", "tpu"],
        metavar="NAME",
        help="platforms to export for (default cpu cuda tpu)",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from gfl_jax.export import export_detector, loader_code

    config = config_from_args(args, overrides)
    trained = detector_from_args(args, config)
    canvas = (args.height, args.width)
    export_detector(trained, args.output, canvas, args.platforms, args.batch)
    print(f"exported detector: {args.output}\nclasses and sizes: {args.output}.json\n")
    print(f"code that runs it with jax and flatbuffers alone:\n\n{loader_code(str(args.output))}")
    return 0
