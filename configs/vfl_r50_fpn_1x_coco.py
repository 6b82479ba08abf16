"""GFL with the varifocal loss instead of the quality focal loss, ResNet-50 FPN, 12 epochs on COCO.

    python main.py train --config=configs/vfl_r50_fpn_1x_coco.py --workdir=runs/vfl_r50

The loss is that of VarifocalNet (Zhang et al. 2021), with its alpha and gamma. The star-shaped boxes and
the box refinement of VarifocalNet are not included. Cost: that of GFL.
"""

from gfl_jax.axes.classification import ClassificationLoss
from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_1x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    return override(
        base.get_config(),
        {
            "name": "vfl_r50_fpn_1x_coco",
            "detector.classification": ClassificationLoss("varifocal", alpha=0.75, gamma=2.0),
        },
    )
