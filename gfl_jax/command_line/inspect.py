"""The `inspect` command: a data set as the detector of a config would learn from it."""

import argparse
from pathlib import Path

from gfl_jax.command_line.arguments import add_config, whole_number
from gfl_jax.command_line.setup import config_from_args
from gfl_jax.files import require_writable
from gfl_jax.paths import as_path

TEXT = """\
Describes a data set for the detector of a config: counts, sizes, and which boxes each level learns from.

  python main.py inspect --config=gfl_trees
  python main.py inspect --config=finetune:data=DIR,model=gfl_r50_fpn_1x_coco

The command prints the number and the sizes of images and boxes, the number of boxes of each class, and the
sizes of the boxes that each level of the pyramid learns from. Nothing is trained.

Boxes that no location learns from are counted, and some of their images are named. Such boxes are too small,
too thin, hidden by other boxes, or between the anchors of two levels. Some percent of such boxes are common.
A larger config.resize (or config.crops.scale, for configs with crops) or another config.detector.assigner may
help.

samples.png shows images as training sees them: resized, cropped and mirrored. Each box has the color of its
level. The sample and the numbers about levels come from the first images that a run with this config sees."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_config(command)
    command.add_argument(
        "--output", type=as_path, metavar="DIR", help="directory for samples.png (default runs/NAME/inspect)"
    )
    command.add_argument(
        "--images",
        type=whole_number("--images", 1),
        default=200,
        metavar="N",
        help="number of training samples to inspect (default 200); small data sets show images several times",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from rich.console import Console

    from gfl_jax.analysis.data_set import (
        class_table,
        data_table,
        describe_unassigned,
        draw_samples,
        level_table,
        training_images,
    )
    from gfl_jax.analysis.text_tables import for_console
    from gfl_jax.data.loader import has_eval_data, log_shapes, make_source
    from gfl_jax.drawing import save_png
    from gfl_jax.training.run_data import classes_of, open_evaluation

    config = config_from_args(args, overrides)
    output = args.output or as_path(Path("runs", config.name, "inspect"))
    require_writable(output)
    sources = {"training": make_source(config, "train")}
    if has_eval_data(config):
        train = sources["training"]
        sources["evaluation"] = open_evaluation(config, classes_of(train), train.name)
    console = Console()
    console.print(for_console(data_table(sources)))
    console.print(for_console(class_table(sources)))
    for name, source in sources.items():
        log_shapes(source, config, training=name == "training")
    train, strides = sources["training"], config.detector.strides
    shown = list(training_images(train, config, args.images))
    console.print(for_console(level_table(shown, strides), digits=1))
    for line in describe_unassigned(shown, train):
        print(line)
    save_png(output / "samples.png", draw_samples(shown[:12], strides))
    print(f"images as training sees them: {output}/samples.png")
    return 0
