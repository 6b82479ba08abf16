r"""GFL, ResNeXt-101-32x4d FPN, multi-scale 2x: 45.9 AP (mmdetection, val2017).

    python main.py train --config=configs/gfl_x101_32x4d_fpn_ms2x_coco.py \
        --workdir=runs/gfl_x101_32x4d
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r101_fpn_ms2x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "gfl_x101_32x4d_fpn_ms2x_coco",
            "init_from": "resnext101_32x4d",
            "detector.backbone.groups": 32,
            "detector.backbone.group_width": 4,
        },
    )
