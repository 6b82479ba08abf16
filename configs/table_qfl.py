"""QFL on other dense detectors: focal loss on hard labels against QFL on the IoU.

    python main.py train --config=configs/table_qfl.py:detector=retinanet,loss=quality_focal --workdir=runs/x
    python main.py compare --table=qfl --dataset=trees --seeds=3

RetinaNet here has its own assigner and its nine anchors, but the head that all detectors share (group
norm, GIoU loss, deltas with the standard deviations of ATSS), so its rows differ only in the loss.
FoveaBox here has the GIoU loss of FCOS instead of a smooth L1 loss on the logarithms of the distances.
Neither of the two is checked against a reference.
"""

from typing import Any, Literal

from gfl_jax.comparison.rows import Row
from gfl_jax.config import Config
from gfl_jax.configs import gfl, table_1
from gfl_jax.configuration.overrides import override

TITLE = "QFL on other dense detectors"
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "focal": (
        "focal loss",
        {
            "detector.quality": "none",
            "detector.classification.kind": "focal",
            "detector.box.weighting": "none",
        },
    ),
    "quality_focal": ("QFL", {"detector.quality": "joint"}),
}
RETINANET: dict[str, Any] = {
    "detector.assigner.kind": "max_iou",
    "detector.assigner.anchor_octave_parts": 3,
    "detector.assigner.anchor_ratios": (0.5, 1.0, 2.0),
    "detector.box.kind": "dirac",
    "detector.box.coding": "deltas",
}
FOVEA: dict[str, Any] = {
    "detector.assigner.kind": "fovea",
    "detector.box.kind": "dirac",
    "detector.box.activation": "exp",
}
SIZE_RANGES: dict[str, dict[str, Any]] = {  # in pixels; for small data around the anchors of ATSS
    "coco": {},
    "trees": {"detector.assigner.size_ranges": ((1, 48), (24, 96), (48, 1000))},
    "digits": {"detector.assigner.size_ranges": ((1, 32), (16, 64), (32, 1000))},
}
SMALLEST_ANCHOR = {"coco": 4.0, "trees": 3.0, "digits": 2.5}  # in strides
ROWS = tuple(
    Row(label, detector, {"detector": detector.lower(), "loss": loss})
    for detector in ("RetinaNet", "FoveaBox", "FCOS", "ATSS")
    for loss, (label, _) in LOSSES.items()
)


def get_config(
    detector: Literal["retinanet", "foveabox", "fcos", "atss"] = "retinanet",
    loss: Literal["focal", "quality_focal"] = "quality_focal",
    dataset: Literal["coco", "trees", "digits"] = "coco",
) -> Config:
    if detector == "retinanet":
        anchors = {"detector.assigner.anchor_scale": SMALLEST_ANCHOR[dataset]}
        config = override(gfl.get_config(dataset), RETINANET | anchors)
    elif detector == "foveabox":
        config = override(gfl.get_config(dataset), FOVEA | SIZE_RANGES[dataset])
    else:
        config = table_1.get_config(detector, "joint", None, dataset)
    return override(config, {"name": f"table_qfl_{detector}_{loss}_{dataset}", **LOSSES[loss][1]})
