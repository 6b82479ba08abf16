"""GFLv2, ResNet-50 FPN, 24 epochs on COCO with multi-scale training.

    python main.py train --config=configs/gflv2_r50_fpn_ms2x_coco.py --workdir=runs/gflv2_r50_ms2x

The short side is drawn from 480 to 800, as in mmdetection. Cost: twice that of the 1x schedule.
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_ms2x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(), {"name": "gflv2_r50_fpn_ms2x_coco", "detector.quality": "distribution"}
    )
