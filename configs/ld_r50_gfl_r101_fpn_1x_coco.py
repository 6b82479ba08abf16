"""GFL, ResNet-50 FPN, with localization distillation from GFL ResNet-101: 41.1 AP in its paper (val2017).

    python main.py train --config=configs/ld_r50_gfl_r101_fpn_1x_coco.py --workdir=runs/ld_r50

The teacher (51 million parameters) is downloaded by its name. To use another one, give a work directory:
--config.distillation.teacher=runs/gfl_r101. Cost: that of GFL, and half as much for the teacher's
forward pass.
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {"name": "ld_r50_gfl_r101_fpn_1x_coco", "distillation.teacher": "gfl_r101_fpn_ms2x_coco"},
    )
