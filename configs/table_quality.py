"""Successors of GFL: GFLv2, the varifocal loss, localization distillation.

    python main.py train --config=configs/table_quality.py:method=gflv2 --workdir=runs/gflv2
    python main.py compare --table=quality --dataset=digits --seeds=3

The teacher of localization distillation is the larger GFL of the same seed.
"""

from typing import Any, Literal

from gfl_jax.axes.classification import ClassificationLoss
from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configs import gfl, gfl_r101_fpn_ms2x_coco
from gfl_jax.configuration.overrides import override

TITLE = "Successors of GFL"
METHODS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "gfl": ("GFL", {}, 40.2),
    "gflv2": ("GFLv2", {"detector.quality": "distribution"}, 41.0),
    "vfl": (
        "GFL with the varifocal loss",
        {"detector.classification": ClassificationLoss("varifocal", alpha=0.75)},
        None,
    ),
    "large": ("a larger GFL", {}, None),
    "ld": ("GFL, taught by the larger one (LD)", {}, 41.1),
}
ROWS = tuple(
    Row(label, "ATSS", {"method": method}, paper, teacher="large" if method == "ld" else None)
    for method, (label, _, paper) in METHODS.items()
)
WIDTHS = {"trees": (48, 96, 192, 192), "digits": (32, 64, 128, 128)}  # of the larger GFL


def get_config(
    method: Literal["gfl", "gflv2", "vfl", "large", "ld"] = "gfl",
    dataset: Literal["coco", "trees", "digits"] = "coco",
) -> Config:
    if method == "large" and dataset == "coco":
        config = gfl_r101_fpn_ms2x_coco.get_config()
    elif method == "large":
        channels = WIDTHS[dataset][1]
        larger = {
            "detector.backbone.widths": WIDTHS[dataset],
            "detector.pyramid.channels": channels,
            "detector.head.channels": channels,
            "detector.head.num_groups": channels // 4,
        }
        config = override(gfl.get_config(dataset), larger)
    else:
        config = gfl.get_config(dataset)
    return override(config, {"name": f"table_quality_{method}_{dataset}", **METHODS[method][1]})
