"""Losses on the distribution of a box side. Elementwise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def distribution_focal_loss(
    logits: Float[Array, "*n bins"], targets: Float[Array, "*n"], spacing: float = 1.0
) -> Float[Array, "*n"]:
    """Distribution focal loss (DFL, GFL eq. 6): cross-entropy with the two bins around the target.

    Args:
      logits: of a softmax over the bins 0, spacing, 2 spacing, ...
      targets: at least the first bin, and below the last one.
      spacing: the distance between neighboring bins.
    """
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    bins = jnp.arange(logits.shape[-1], dtype=logits.dtype)
    # The weight of a bin falls linearly from 1 at the target to 0 at a distance of one bin.
    weights = jax.nn.relu(1 - jnp.abs(bins - targets[..., None] / spacing))
    return -jnp.sum(weights * log_probabilities, axis=-1)


def gaussian_negative_log_likelihood(
    mean: Float[Array, "*n"], log_variance: Float[Array, "*n"], targets: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """-log of the normal density at the target, without the constant term (He et al. 2019, eq. 5)."""
    return (jnp.square(targets - mean) * jnp.exp(-log_variance) + log_variance) / 2
