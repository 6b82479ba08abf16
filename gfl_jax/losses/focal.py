"""Losses on class scores: the focal loss family. All are elementwise and take logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def binary_cross_entropy(logits: Float[Array, "*n"], targets: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Cross-entropy of sigmoid(logits) and targets in [0, 1]."""
    return jax.nn.softplus(logits) - logits * targets


def quality_focal_loss(
    logits: Float[Array, "*n"], qualities: Float[Array, "*n"], beta: float = 2.0
) -> Float[Array, "*n"]:
    """Quality focal loss (GFL eq. 5): |y - sigma|^beta times the cross-entropy.

    Args:
      logits: class scores before the sigmoid.
      qualities: the soft labels y: the IoU at the true class of a positive, else 0.
      beta: how strongly well-estimated scores are down-weighted. Below 1, slopes grow without bound as a
        score approaches its label, and are 0 where they are equal.
    """
    distance = jnp.abs(qualities - jax.nn.sigmoid(logits))
    return _power(distance, beta) * binary_cross_entropy(logits, qualities)


def _power(distance: Float[Array, "*n"], exponent: float) -> Float[Array, "*n"]:
    """A power of distances that has a finite gradient everywhere."""
    if float(exponent).is_integer():
        return distance ** int(exponent)  # exact and cheap
    # At zero the slope of a power below 1 is infinite. The loss has its minimum there, so 0 is a subgradient.
    apart = distance >= jnp.finfo(distance.dtype).tiny
    return jnp.where(apart, jnp.where(apart, distance, 1) ** exponent, 0)


def focal_loss(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Array, "*n"]:
    """Focal loss on hard labels (Lin et al. 2017).

    Args:
      logits: class scores before the sigmoid.
      targets: 1 at the true class of a positive, else 0.
      alpha: weight of the ones; the zeros have 1 - alpha.
      gamma: how strongly well-classified scores are down-weighted.
    """
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * quality_focal_loss(logits, targets, gamma)


def l2_loss(logits: Float[Array, "*n"], qualities: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Squared difference of sigmoid(logits) and the soft labels (the L2 row of Table I)."""
    return jnp.square(jax.nn.sigmoid(logits) - qualities)
