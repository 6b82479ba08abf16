r"""GFL, ResNeXt-101-32x4d, deformable convolutions in C4 and C5: 48.1 AP (mmdetection, val2017).

    python main.py train --config=configs/gfl_x101_32x4d_dcn_c4-c5_fpn_ms2x_coco.py \
        --workdir=runs/gfl_x101_32x4d_dcn_c4-c5
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_x101_32x4d_fpn_ms2x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "gfl_x101_32x4d_dcn_c4-c5_fpn_ms2x_coco",
            "detector.backbone.deform_stages": (3, 4),
        },
    )
