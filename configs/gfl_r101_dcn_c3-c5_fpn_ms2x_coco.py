r"""GFL, ResNet-101 with deformable convolutions in C3 to C5, multi-scale 2x: 47.1 AP (mmdetection, val2017).

    python main.py train --config=configs/gfl_r101_dcn_c3-c5_fpn_ms2x_coco.py \
        --workdir=runs/gfl_r101_dcn_c3-c5
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r101_fpn_ms2x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "gfl_r101_dcn_c3-c5_fpn_ms2x_coco",
            "detector.backbone.deform_stages": (2, 3, 4),
        },
    )
