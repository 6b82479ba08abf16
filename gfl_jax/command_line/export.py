"""A trained detector as one file."""

import argparse

from gfl_jax.command_line.arguments import add_trained, whole_number
from gfl_jax.command_line.setup import config_of, trained_of
from gfl_jax.paths import as_path

TEXT = """\
Writes a trained detector into one file that runs with jax alone, on several platforms.

  python main.py export --workdir=runs/gfl_trees --output=gfl_trees.jaxexport
  python main.py export --workdir=runs/gfl_r50 --output=gfl.jaxexport --height=800 --width=1344 --batch=1

It takes uint8 pictures on a canvas of this size with their heights and widths, and gives boxes,
scores, labels and a mask. FILE.json beside it has the names of the classes and the resize.
Test scales and flips are not exported."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add_trained(command)
    command.add_argument("--output", type=as_path, metavar="FILE", required=True, help="what is written")
    for side in ("height", "width"):
        command.add_argument(
            f"--{side}",
            type=whole_number(f"--{side}"),
            metavar=side[0].upper(),
            help="default: the largest bucket's",
        )
    command.add_argument(
        "--batch",
        type=whole_number("--batch"),
        metavar="N",
        help="pictures of a call; default: any number",
    )
    command.add_argument(
        "--platforms", nargs="+", default=["cpu", "cuda", "tpu"], metavar="NAME", help="default: cpu cuda tpu"
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Does what the command says; returns the exit status."""
    from gfl_jax.export import export_detector, loader_code

    config = config_of(args, overrides)
    trained = trained_of(args, config)
    canvas = (args.height, args.width)
    export_detector(trained, args.output, canvas, args.platforms, args.batch)
    print(f"the detector: {args.output}\nits classes and sizes: {args.output}.json\n")
    print(f"to run it with jax and flatbuffers alone:\n\n{loader_code(str(args.output))}")
    return 0
