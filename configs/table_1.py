"""Table I of the rebuttal: localization quality as a branch, not predicted, or merged into the class score.

    python main.py train --config=configs/table_1.py:assigner=atss,quality=iou --workdir=runs/atss_iou
    python main.py compare --table=1 --dataset=trees --seeds=3

ATSS is mmdetection's atss_r50_fpn_1x (boxes are deltas from an anchor). FCOS is mmdetection's fcos_r50
with its later tricks. The box loss weights boxes by centerness if a branch learns it, by class score if
the score is the quality (as in GFL), and equally otherwise.
"""

from typing import Any, Literal

from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configs import atss_r50_fpn_1x_coco, fcos_r50_fpn_tricks_1x_coco, gfl
from gfl_jax.configuration.overrides import override

TITLE = "Table I: how localization quality is predicted"
METHODS: dict[str, tuple[dict[str, Any], float, float]] = {
    "centerness branch, focal loss": ({"quality": "centerness"}, 38.5, 39.2),
    "IoU branch, focal loss": ({"quality": "iou"}, 38.7, 39.6),
    "no branch, focal loss": ({"quality": "none"}, 37.8, 38.0),
    "no branch, L2 on the joint score": ({"quality": "joint", "loss": "l2"}, 19.2, 20.4),
    "no branch, QFL": ({"quality": "joint"}, 39.0, 39.9),
}
ROWS = tuple(
    Row(label, column, {"assigner": column.lower(), **arguments}, paper[column == "ATSS"])
    for column in ("FCOS", "ATSS")
    for label, (arguments, *paper) in METHODS.items()
)

# Changes that turn the small GFL into the detector of each column, except quality and class loss.
SMALL: dict[str, dict[str, Any]] = {
    "atss": {"detector.box.kind": "dirac", "detector.box.coding": "deltas"},
    "fcos": {
        "detector.box.kind": "dirac",
        # When training from scratch, the ReLU of the tricks can be zero everywhere and stay zero.
        "detector.box.activation": "exp",
        "detector.assigner.kind": "fcos",
        "detector.assigner.center_radius": 1.5,
    },
}
RANGE_BOUNDS = {"trees": (40, 80), "digits": (24, 48)}  # pixels, as large as the anchors of ATSS
WEIGHTING = {"centerness": "centerness", "joint": "score", "iou": "none", "none": "none"}


def get_config(
    assigner: Literal["fcos", "atss"] = "atss",
    quality: Literal["joint", "centerness", "iou", "none"] = "joint",
    loss: Literal["focal", "quality_focal", "l2"] | None = None,  # None: focal, or QFL for joint quality
    dataset: Literal["coco", "trees", "digits"] = "coco",
) -> Config:
    if dataset == "coco":
        config = {"atss": atss_r50_fpn_1x_coco, "fcos": fcos_r50_fpn_tricks_1x_coco}[assigner].get_config()
    else:
        config = override(gfl.get_config(dataset), SMALL[assigner])
        if assigner == "fcos":
            config = override(config, {"detector.assigner.range_bounds": RANGE_BOUNDS[dataset]})
    loss = loss or ("quality_focal" if quality == "joint" else "focal")
    return override(
        config,
        {
            "name": f"table_1_{assigner}_{quality}_{loss}_{dataset}",
            "detector.quality": quality,
            "detector.classification.kind": loss,
            "detector.box.weighting": WEIGHTING[quality],
        },
    )
