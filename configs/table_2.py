"""Table II of the rebuttal: ATSS and GFL on the largest backbones, with modulated deformable convolutions.

    python main.py train --config=configs/table_2.py:detector=gfl,backbone=x101_32x4d --workdir=runs/gfl_x101
    python scripts/benchmark.py --table=2

It is for COCO only: 24 epochs with multi-scale training. The rebuttal gives speeds on one GPU of 2020:
6.9 images/s for ATSS on 32x8d, and 10.0 for both detectors on 32x4d. With multi-scale testing it reports
50.7, 50.3 and 51.1 AP.
"""

from typing import Any, Literal

from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configs import atss_r50_fpn_1x_coco, gfl_r50_fpn_1x_coco, gfl_r50_fpn_ms2x_coco
from gfl_jax.configuration.overrides import override

TITLE = "Table II: large backbones"
ROWS = (
    Row("X-101-32x8d-DCN", "ATSS", {"detector": "atss", "backbone": "x101_32x8d"}, 47.7),
    Row("X-101-32x4d-DCN", "ATSS", {"detector": "atss", "backbone": "x101_32x4d"}, 47.4),
    Row("X-101-32x4d-DCN", "GFL", {"detector": "gfl", "backbone": "x101_32x4d"}, 48.2),
)
DEFORMABLE: dict[str, Any] = {
    "detector.backbone.deform_stages": (2, 3, 4),
    "detector.backbone.deform_version": 2,
}
R101: dict[str, Any] = {"init_from": "resnet101", "detector.backbone.stage_sizes": (3, 4, 23, 3)}
BACKBONES: dict[str, dict[str, Any]] = {
    "r50": {},
    "r101": R101,
    "r101_dcn": R101 | DEFORMABLE,
} | {
    f"x101_32x{width}d": {
        "init_from": f"resnext101_32x{width}d",
        "detector.backbone.stage_sizes": (3, 4, 23, 3),
        "detector.backbone.groups": 32,
        "detector.backbone.group_width": width,
        **DEFORMABLE,
    }
    for width in (4, 8)
}


def get_config(
    detector: Literal["gfl", "atss"] = "gfl",
    backbone: Literal["r50", "r101", "r101_dcn", "x101_32x4d", "x101_32x8d"] = "x101_32x4d",
    dataset: Literal["coco"] = "coco",
) -> Config:
    point = {"gfl": gfl_r50_fpn_1x_coco, "atss": atss_r50_fpn_1x_coco}[detector].get_config().detector
    return override(
        gfl_r50_fpn_ms2x_coco.get_config(),
        {"name": f"table_2_{detector}_{backbone}_{dataset}", "detector": point, **BACKBONES[backbone]},
    )
