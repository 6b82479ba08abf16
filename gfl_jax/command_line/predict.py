"""Detections in images and videos."""

import argparse

from gfl_jax.command_line.arguments import add_output, add_trained, share
from gfl_jax.command_line.setup import config_of, place_of, trained_of
from gfl_jax.files import require_writable

TEXT = """\
Detects in images and videos: draws the boxes and writes them as a COCO results JSON.

  python main.py predict --workdir=runs/gfl_trees photo1.jpg photo2.png --output=predictions
  python main.py predict --workdir=runs/gfl_trees photos 'day*/*.jpg' clip.mp4 --output=predictions

A folder stands for all images and videos in it and below it, hidden ones left out. Drawn images are PNG
files, drawn videos MP4 files. They keep the folders below the one that all inputs have in common, and
their names; where two would get one name, the old ending stays (a.jpg.png). Nothing takes the place of an
input, or of a file that is not of an earlier `predict`.

results.json has all detections, whatever their score. In each, file_name is the path below the folder
that all inputs have in common, and image_id the number in the file name, if each input is an image named
by a number of its own (0001.jpg); otherwise all images and frames are counted from 1. A detection in a
video has the number of its frame too, from 0 on.

An input that cannot be used is named at the end, and all others are done: then the exit status is 1, or 2
if no input could be used."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add_trained(command)
    add_output(command)
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="an image, a video, a folder of them, a pattern in quotes",
    )
    command.add_argument(
        "--min-score",
        type=share("--min-score"),
        default=0.3,
        metavar="SCORE",
        help="draw boxes from this score on (0.3)",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Does what the command says; returns the exit status."""
    from gfl_jax.prediction.predict_files import predict_inputs

    config = config_of(args, overrides)
    output = args.output or place_of(args) / "predict"
    trained = trained_of(args, config)
    require_writable(output)
    return predict_inputs(trained, args.inputs, output, args.min_score)
