r"""GFL, ResNet-50 FPN, 24 epochs on COCO with multi-scale training from 480 to 960.

    python main.py train --config=configs/gfl_r50_fpn_ms480-960_2x_coco.py \
        --workdir=runs/gfl_r50_ms480-960

The range of short sides is wider than in gfl_r50_fpn_ms2x_coco (480 to 800), and batches have 16 shapes
instead of 12. Evaluation stays at 800. Cost: a quarter more pixels than gfl_r50_fpn_ms2x_coco.
"""

from gfl_jax.config import Config
from gfl_jax.configs import gfl_r50_fpn_ms2x_coco as base
from gfl_jax.configuration.overrides import override


def get_config() -> Config:
    config = base.get_config()
    return override(
        config,
        {
            "name": "gfl_r50_fpn_ms480-960_2x_coco",
            "resize.train_short_sides": (480, 960),
            "loader.buckets": (
                *(config.loader.buckets or ()),
                *((960, 1280), (960, 1344), (1280, 960), (1344, 960)),
            ),
        },
    )
