"""gfl_jax: Generalized Focal Loss detectors in JAX and Flax.

What can be imported from here is the Python API, and stays under these names.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfl_jax.boxes import boxes_to_distances, centerness, distances_to_boxes, giou, iou
    from gfl_jax.config import Config
    from gfl_jax.configuration.config_files import load_config
    from gfl_jax.configuration.overrides import override
    from gfl_jax.detection_loss import detection_losses
    from gfl_jax.detector import Detector, Found, load, train
    from gfl_jax.errors import UserError
    from gfl_jax.inference.nms import nms
    from gfl_jax.inference.voting import variance_vote
    from gfl_jax.losses.distribution import distribution_focal_loss
    from gfl_jax.losses.focal import focal_loss, quality_focal_loss
    from gfl_jax.losses.overlap import giou_loss, iou_loss
    from gfl_jax.models.network import build_detector
    from gfl_jax.targets.atss import assign_atss
    from gfl_jax.targets.fcos import assign_fcos

_PLACES = {
    "detector": ("Detector", "Found", "load", "train"),
    "boxes": ("boxes_to_distances", "centerness", "distances_to_boxes", "giou", "iou"),
    "config": ("Config",),
    "configuration.config_files": ("load_config",),
    "configuration.overrides": ("override",),
    "detection_loss": ("detection_losses",),
    "errors": ("UserError",),
    "inference.nms": ("nms",),
    "inference.voting": ("variance_vote",),
    "losses.overlap": ("giou_loss", "iou_loss"),
    "losses.distribution": ("distribution_focal_loss",),
    "losses.focal": ("focal_loss", "quality_focal_loss"),
    "models.network": ("build_detector",),
    "targets.atss": ("assign_atss",),
    "targets.fcos": ("assign_fcos",),
}

__version__ = "0.2.0"

__all__ = [
    "Config", "Detector", "Found", "UserError", "assign_atss", "assign_fcos", "boxes_to_distances",
    "build_detector", "centerness", "detection_losses", "distances_to_boxes", "distribution_focal_loss",
    "focal_loss", "giou", "giou_loss", "iou", "iou_loss", "load", "load_config", "nms", "override",
    "quality_focal_loss", "train", "variance_vote",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for: jax takes seconds, and clusters are set up before it."""
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"gfl_jax.{place}"), name)
    raise AttributeError(f"module 'gfl_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
