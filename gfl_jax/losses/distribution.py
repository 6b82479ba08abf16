"""The general distribution of a box side, its integral, and the loss that shapes it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def integral(logits: Float[Array, "*n bins"]) -> Float[Array, "*n"]:
    """Expected value of a distribution over 0, 1, ..., bins - 1 (GFL eq. 4)."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    return probabilities @ jnp.arange(logits.shape[-1], dtype=logits.dtype)


def distribution_focal_loss(
    logits: Float[Array, "*n bins"], targets: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Distribution focal loss (DFL, GFL eq. 6): cross-entropy with the two bins around the target.

    Args:
      logits: of a softmax over the bins 0, 1, ..., bins - 1.
      targets: in [0, bins - 1).
    """
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    bins = jnp.arange(logits.shape[-1], dtype=logits.dtype)
    # The weight of a bin falls linearly from 1 at the target to 0 at a distance of one bin.
    weights = jax.nn.relu(1 - jnp.abs(bins - targets[..., None]))
    return -jnp.sum(weights * log_probabilities, axis=-1)
