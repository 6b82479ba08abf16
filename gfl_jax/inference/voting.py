"""Variance voting: neighbors refine kept boxes (He et al. 2019, Algorithm 1)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gfl_jax.boxes import iou


def variance_vote(
    kept: Float[Array, "kept 4"],
    boxes: Float[Array, "boxes 4"],
    variances: Float[Array, "boxes 4"],
    voters: Bool[Array, "kept boxes"],
    sigma_t: float,
) -> Float[Array, "kept 4"]:
    """Moves each side of a kept box to the weighted mean of its voters' sides.

    The weight of a voter is exp(-(1 - IoU)^2 / sigma_t), divided by the variance of its side. So close
    neighbors with a certain side decide where that side is.

    Args:
      kept: the boxes that non-maximum suppression kept.
      boxes: all candidates, including the suppressed ones.
      variances: of the sides of `boxes`, in square pixels.
      voters: which candidates may vote for which kept box; only those that overlap it do.
      sigma_t: smaller values give distant neighbors less weight.
    """
    overlap = iou(kept[:, None], boxes[None])
    nearness = jnp.exp(-jnp.square(1 - overlap) / sigma_t) * (voters & (overlap > 0))
    precision = 1 / jnp.maximum(variances, 1e-6)  # a distribution on one bin has the variance 0
    # By default accelerators multiply float32 in bfloat16 or TF32, which would move boxes by some pixels.
    weight, weighted = (jnp.matmul(nearness, x, precision="highest") for x in (precision, precision * boxes))
    return jnp.where(weight > 0, weighted / jnp.where(weight > 0, weight, 1), kept)
