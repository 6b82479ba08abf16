"""GFL on a data set of choice. The rows of all tables start from it.

    python main.py train --config=configs/gfl.py:dataset=trees --workdir=runs/gfl_trees_short

On COCO it is gfl_r50_fpn_1x_coco. On the aerial trees and on the composed digits it is a small network
that trains from scratch within a minute or two on 2 cores. A table of ten rows with three seeds each
takes about an hour. Longer training gives higher AP.
"""

from typing import Literal

from gfl_jax.config import Config
from gfl_jax.configs import gfl_digits, gfl_r50_fpn_1x_coco, gfl_trees
from gfl_jax.configuration.overrides import override


def get_config(dataset: Literal["coco", "trees", "digits"] = "coco") -> Config:
    if dataset == "coco":
        return gfl_r50_fpn_1x_coco.get_config()
    if dataset == "digits":
        return gfl_digits.get_config()
    return override(
        gfl_trees.get_config(),
        {
            "crops.size": 192,
            "optimizer.ema_decay": None,
            "inference.test_scales": (1.0,),
            "inference.test_flip": False,
            "schedule.steps": 500,
            "run.checkpoint_every": 250,
            "run.evaluate_every": 500,
            "run.keep_checkpoints": 1,
        },
    )
