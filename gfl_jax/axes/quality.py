"""How localization quality is predicted: one of the four axes of a detector.

joint: merged into the class score, whose label is the IoU (GFL);
centerness, iou: by a branch, whose score is multiplied in (FCOS, ATSS; IoU-Net);
none: not at all.
"""

from typing import Literal

import jax
from jaxtyping import Array, Bool, Float

Quality = Literal["joint", "centerness", "iou", "none"]


def has_branch(quality: Quality) -> bool:
    """Whether the head has a branch for it."""
    return quality in ("centerness", "iou")


def branch_labels(
    quality: Quality, overlap: Float[Array, "*n"], centerness: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """What the branch learns by cross-entropy: the IoU of the decoded and the true box, or its centerness."""
    return {"iou": overlap, "centerness": centerness}[quality]


def class_labels(
    quality: Quality, positive: Bool[Array, "*n"], overlap: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """What the score of a positive's class learns."""
    return overlap if quality == "joint" else positive.astype(overlap.dtype)


def final_scores(class_scores: Float[Array, "*n"], branch_logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """What the detections of a detector with a branch are ranked by; others rank by the class score."""
    return class_scores * jax.nn.sigmoid(branch_logits)
