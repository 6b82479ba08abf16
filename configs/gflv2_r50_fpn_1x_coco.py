"""GFLv2, ResNet-50 FPN, 12 epochs on COCO: its paper's 41.0 AP (val2017).

    python main.py train --config=configs/gflv2_r50_fpn_1x_coco.py --workdir=runs/gflv2_r50

GFL whose class scores are multiplied with a quality that is read off the distributions of the box's sides.
Cost: that of GFL.
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(base.get_config(), {"name": "gflv2_r50_fpn_1x_coco", "detector.quality": "distribution"})
