"""The `predict` command: detections in images and videos."""

import argparse

from gfl_jax.command_line.arguments import add_output, add_trained, fraction
from gfl_jax.command_line.setup import config_from_args, default_output_root, detector_from_args
from gfl_jax.files import require_writable

TEXT = """\
Detects objects in images and videos, draws the boxes and writes them as COCO results JSON.

  python main.py predict --model=gfl_trees photo.jpg --output=predictions
  python main.py predict --workdir=runs/gfl_trees photos 'day*/*.jpg' clip.mp4 --output=predictions

A folder means all images and videos in it and in its subfolders, except hidden ones.

Drawn images are PNG files and drawn videos are MP4 files. They keep their names, and their folders below the
common folder of all inputs. If two outputs would have the same name, the old extension is kept (a.jpg.png).
The command never overwrites an input, or a file that an earlier `predict` did not write.

results.json has the detections with a score of at least config.inference.score_threshold (default 0.05),
drawn or not, and at most config.inference.max_detections for an image. In each detection, file_name is the
path below the common folder of all inputs. If all inputs are images with different numbers as names
(0001.jpg), image_id is the number in the file name. Otherwise all images and frames are numbered from 1. A
detection in a video also has the number of its frame, counted from 0.

If an input cannot be used, the command names it at the end and processes all others. The exit status is then
1, or 2 if no input could be used."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_trained(command)
    add_output(command)
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="image, video, folder of them, or pattern in quotes",
    )
    command.add_argument(
        "--min-score",
        type=fraction("--min-score"),
        default=0.3,
        metavar="SCORE",
        help="draw only boxes with at least this score (default 0.3)",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from gfl_jax.prediction.predict_files import predict_inputs

    config = config_from_args(args, overrides)
    output = args.output or default_output_root(args) / "predict"
    trained = detector_from_args(args, config)
    require_writable(output)
    return predict_inputs(trained, args.inputs, output, args.min_score)
