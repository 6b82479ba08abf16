"""The `models` command: the list of published weights."""

import argparse

TEXT = """\
Lists published weights by name: detectors trained on COCO or on aerial trees, and ImageNet backbones.

  python main.py models
  python main.py predict --model=gfl_r50_fpn_1x_coco street.jpg
  python main.py train --config=my_config.py --workdir=runs/mine --config.init_from=gfl_r50_fpn_1x_coco

Detectors can be used with --model of `predict`, `evaluate`, `export` and `analyze`. Detectors and backbones
can be used with --config.init_from of `train`.

gfl_trees, a small detector of trees in aerial images, is part of this package. The other weights are
downloaded once, checked, and kept in $GFL_JAX_CACHE (default ~/.cache/gfl_jax). After that they need no
network."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from rich.console import Console

    from gfl_jax.pretrained.published import models_table

    table = models_table()
    console = Console()
    # A file or a pipe has no width: there the table is as wide as it needs to be.
    console.print(table, width=None if console.is_terminal else 200)
    return 0
