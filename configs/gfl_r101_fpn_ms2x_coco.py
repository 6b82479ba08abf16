"""GFL, ResNet-101 FPN, 24 epochs on COCO with multi-scale training: the paper's 44.7 AP (val2017).

python main.py train --config=configs/gfl_r101_fpn_ms2x_coco.py --workdir=runs/gfl_r101_ms2x
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_ms2x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "gfl_r101_fpn_ms2x_coco",
            "init_from": "resnet101",
            "detector.backbone.stage_sizes": (3, 4, 23, 3),
        },
    )
