"""ATSS with centerness, ResNet-101 FPN, 12 epochs on COCO: 41.5 AP (mmdetection, val2017).

python main.py train --config=configs/atss_r101_fpn_1x_coco.py --workdir=runs/atss_r101
"""

from gfl_jax.config import Config
from gfl_jax.configs import atss_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "atss_r101_fpn_1x_coco",
            "init_from": "resnet101",
            "detector.backbone.stage_sizes": (3, 4, 23, 3),
        },
    )
