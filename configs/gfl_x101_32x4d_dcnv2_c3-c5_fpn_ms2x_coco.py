r"""GFL, ResNeXt-101-32x4d with modulated deformable convolutions in C3 to C5: the paper's 48.2 AP.

    python main.py train --config=configs/gfl_x101_32x4d_dcnv2_c3-c5_fpn_ms2x_coco.py \
        --workdir=runs/gfl_x101_32x4d_dcnv2_c3-c5
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_x101_32x4d_fpn_ms2x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "gfl_x101_32x4d_dcnv2_c3-c5_fpn_ms2x_coco",
            "detector.backbone.deform_stages": (2, 3, 4),
            "detector.backbone.deform_version": 2,
        },
    )
