"""The list of published weights."""

import argparse

TEXT = """\
Lists published weights: detectors of COCO for --model of `predict`, `evaluate`, `export` and `analyze`,
and, as backbones trained on ImageNet too, for --config.init_from of `train`.

  python main.py models
  python main.py predict --model=gfl_r50_fpn_1x_coco street.jpg
  python main.py train --config=my_config.py --workdir=runs/mine --config.init_from=gfl_r50_fpn_1x_coco

gfl_trees, a small detector of trees on aerial photographs, is a part of this package. The others are
fetched once, checked, and kept in $GFL_JAX_CACHE (else in ~/.cache/gfl_jax), and can be used without a
network from then on."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Does what the command says; returns the exit status."""
    from rich.console import Console

    from gfl_jax.pretrained.published import models_table

    Console().print(models_table())
    return 0
