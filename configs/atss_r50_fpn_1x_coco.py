"""ATSS with centerness, ResNet-50 FPN, 12 epochs on COCO: 39.4 AP (mmdetection, val2017).

python main.py train --config=configs/atss_r50_fpn_1x_coco.py --workdir=runs/atss_r50
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "atss_r50_fpn_1x_coco",
            "detector.quality": "centerness",
            "detector.classification.kind": "focal",
            "detector.box.kind": "dirac",
            "detector.box.coding": "deltas",
            "detector.box.weighting": "centerness",
        },
    )
