"""The loss on the class scores: one of the four axes of a detector."""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.configuration.fields import NotNegative, Range, Share, check_fields
from gfl_jax.losses.focal import focal_loss, l2_loss, quality_focal_loss


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """The loss on the class scores."""

    kind: Literal["focal", "quality_focal", "l2"] = "quality_focal"
    beta: Annotated[float, Range(least=0, most=100)] = 2.0  # of the quality focal loss (GFL eq. 5)
    alpha: Share = 0.25  # of the focal loss
    gamma: Annotated[float, Range(least=0, most=100)] = 2.0  # of the focal loss
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
    else:
        losses = l2_loss(logits, labels)
    return jnp.sum(losses, axis=-1)
