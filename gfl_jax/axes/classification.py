"""The loss on the class scores: one of the four axes of a detector.

focal: on hard labels (Lin et al. 2017);
quality_focal, l2: on soft ones (GFL eq. 5, its Table I);
varifocal: on soft ones, by which positives are weighted (Zhang et al. 2021, eq. 2).
"""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.configuration.fields import NotNegative, Range, Share, check_fields
from gfl_jax.losses.focal import binary_cross_entropy, focal_loss, l2_loss, quality_focal_loss


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """The loss on the class scores."""

    kind: Literal["focal", "quality_focal", "varifocal", "l2"] = "quality_focal"
    beta: Annotated[float, Range(least=0, most=100)] = 2.0  # of the quality focal loss (GFL eq. 5)
    alpha: Share = 0.25  # of the focal loss, and of the varifocal loss, whose paper has 0.75
    gamma: Annotated[float, Range(least=0, most=100)] = 2.0  # of these two
    weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


def class_loss(
    logits: Float[Array, "*n classes"], labels: Float[Array, "*n classes"], loss: ClassificationLoss
) -> Float[Array, "*n"]:
    """The sum over the classes.

    Args:
      logits: class scores before the sigmoid.
      labels: between 0 and 1; the focal loss takes hard ones only.
      loss: which one.
    """
    if loss.kind == "focal":
        losses = focal_loss(logits, labels, loss.alpha, loss.gamma)
    elif loss.kind == "quality_focal":
        losses = quality_focal_loss(logits, labels, loss.beta)
    elif loss.kind == "varifocal":
        of_positives = labels * binary_cross_entropy(logits, labels)
        of_negatives = loss.alpha * quality_focal_loss(logits, jnp.zeros_like(logits), loss.gamma)
        losses = jnp.where(labels > 0, of_positives, of_negatives)
    else:
        losses = l2_loss(logits, labels)
    return jnp.sum(losses, axis=-1)
