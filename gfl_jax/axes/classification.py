"""The loss on the class scores: one of the four axes of a detector.

focal: with hard labels (Lin et al. 2017);
quality_focal, l2: with soft labels (GFL eq. 5 and Table I);
varifocal: with soft labels, which are also the weights of positives (Zhang et al. 2021, eq. 2).
"""

import dataclasses
from typing import Annotated, Literal, assert_never

import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.configuration.fields import NotNegative, Range, Share, check_fields
from gfl_jax.losses.focal import binary_cross_entropy, focal_loss, l2_loss, quality_focal_loss


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """The loss on the class scores."""

    # Loss function: focal loss, QFL (quality_focal), varifocal loss, or the squared error (l2)
    kind: Literal["focal", "quality_focal", "varifocal", "l2"] = "quality_focal"
    beta: Annotated[float, Range(least=0, most=100)] = 2.0  # quality_focal: exponent beta of QFL (GFL eq. 5)
    # focal: weight of the true class; the other classes have 1 - alpha. varifocal: weight of negatives; its
    # paper uses 0.75.
    alpha: Share = 0.25
    gamma: Annotated[float, Range(least=0, most=100)] = 2.0  # focal and varifocal: exponent gamma
    weight: NotNegative = 1.0  # Weight of the loss on the class scores

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


def class_loss(
    logits: Float[Array, "*n classes"], labels: Float[Array, "*n classes"], loss: ClassificationLoss
) -> Float[Array, "*n"]:
    """The loss of each location, summed over the classes.

    Args:
      logits: class scores before the sigmoid.
      labels: between 0 and 1; the focal loss takes only 0 and 1.
      loss: the loss function and its parameters.
    """
    if loss.kind == "focal":
        losses = focal_loss(logits, labels, loss.alpha, loss.gamma)
    elif loss.kind == "quality_focal":
        losses = quality_focal_loss(logits, labels, loss.beta)
    elif loss.kind == "varifocal":
        of_positives = labels * binary_cross_entropy(logits, labels)
        of_negatives = loss.alpha * quality_focal_loss(logits, jnp.zeros_like(logits), loss.gamma)
        losses = jnp.where(labels > 0, of_positives, of_negatives)
    elif loss.kind == "l2":
        losses = l2_loss(logits, labels)
    else:
        assert_never(loss.kind)
    return jnp.sum(losses, axis=-1)
