"""Localization distillation: a student learns distributions of box sides from a teacher. Elementwise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def localization_distillation_loss(
    logits: Float[Array, "*n bins"], teacher: Float[Array, "*n bins"], temperature: float
) -> Float[Array, "*n"]:
    """T^2 times the divergence KL(teacher, student), both at temperature T (Zheng et al. 2022, eq. 3).

    As in mmdetection, it is the mean over the bins, not the sum.

    Args:
      logits: the student's logits.
      teacher: the teacher's logits.
      temperature: T, the divisor of both.
    """
    student = jax.nn.log_softmax(logits / temperature, axis=-1)
    target = jax.nn.log_softmax(teacher / temperature, axis=-1)
    divergence = jnp.exp(target) * (target - student)
    return temperature**2 * jnp.mean(divergence, axis=-1)
