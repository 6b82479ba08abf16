"""GFL, ResNet-50 FPN, 24 epochs on COCO with multi-scale training: the paper's 42.9 AP (val2017).

    python main.py train --config=configs/gfl_r50_fpn_ms2x_coco.py --workdir=runs/gfl_r50_ms2x

The short side is drawn from 480 to 800, as in mmdetection. Cost: twice that of the 1x schedule.
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "gfl_r50_fpn_ms2x_coco",
            "resize.train_short_sides": (480, 800),
            "schedule.epochs": 24,
            "schedule.milestones": (16 / 24, 22 / 24),
            "loader.buckets": (
                *((544, 736), (544, 896), (672, 896), (672, 1120), (800, 1088), (800, 1344)),
                *((736, 544), (896, 544), (896, 672), (1120, 672), (1088, 800), (1344, 800)),
            ),
        },
    )
