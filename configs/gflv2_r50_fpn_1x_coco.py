"""GFLv2, ResNet-50 FPN, 12 epochs on COCO: 41.0 AP in its paper (val2017).

    python main.py train --config=configs/gflv2_r50_fpn_1x_coco.py --workdir=runs/gflv2_r50

It is GFL with class scores multiplied by a quality that is predicted from the distributions of the box sides.
Cost: that of GFL.
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(base.get_config(), {"name": "gflv2_r50_fpn_1x_coco", "detector.quality": "distribution"})
