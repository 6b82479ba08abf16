"""How localization quality is predicted: one of the four axes of a detector.

joint: merged into the class score, whose label is the IoU (GFL);
centerness, iou: by a branch, whose score is multiplied in (FCOS, ATSS; IoU-Net);
none: not at all.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jaxtyping import Array, Bool, Float

Quality = Literal["joint", "centerness", "iou", "none"]

Maps = Float[Array, "batch h w channels"]

# What predicts the IoU of a box, in words.
PREDICTED_BY: dict[Quality, str] = {
    "joint": "joint score",
    "none": "class score",
    "iou": "IoU branch",
    "centerness": "centerness branch",
}


def has_branch(quality: Quality) -> bool:
    """Whether the head has a branch for it."""
    return quality in ("centerness", "iou")


def has_soft_labels(quality: Quality) -> bool:
    """Whether class scores learn an IoU, which the focal loss cannot."""
    return quality == "joint"


def reads_distributions(quality: Quality) -> bool:
    """Whether it takes sides that are distributions."""
    return False


def make_class_logits(quality: Quality, bins: int, dtype: Any) -> Callable[[Maps, Maps], Maps]:
    """A function (class map, box map) -> class logits, to be made in the head's compact method.

    Its layers, if it has some, become the head's, and are those of all levels.

    Args:
      quality: how localization quality is predicted.
      bins: of a side's distribution.
      dtype: of the arithmetic of its layers.
    """
    return lambda class_map, box_map: class_map


def branch_labels(
    quality: Quality, overlap: Float[Array, "*n"], centerness: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """What the branch learns by cross-entropy: the IoU of the decoded and the true box, or its centerness."""
    return {"iou": overlap, "centerness": centerness}[quality]


def class_labels(
    quality: Quality, positive: Bool[Array, "*n"], overlap: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """What the score of a positive's class learns."""
    return overlap if has_soft_labels(quality) else positive.astype(overlap.dtype)


def final_scores(class_scores: Float[Array, "*n"], branch_logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """What the detections of a detector with a branch are ranked by; others rank by the class score."""
    return class_scores * jax.nn.sigmoid(branch_logits)
