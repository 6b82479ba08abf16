"""Variance voting: kept boxes are refined by their neighbors (He et al. 2019, Algorithm 1)."""

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

    A voter counts exp(-(1 - IoU)^2 / sigma_t) by its overlap, over the variance of its side, so
    that neighbors that are close and sure of a side decide where it is.

    Args:
      kept: what non-maximum suppression kept.
      boxes: all candidates, the suppressed ones too.
      variances: of their sides, in square pixels.
      voters: which candidates may vote for which kept box; only those that overlap it do.
      sigma_t: the smaller, the less do distant neighbors count.
    """
    overlap = iou(kept[:, None], boxes[None])
    nearness = jnp.exp(-jnp.square(1 - overlap) / sigma_t) * (voters & (overlap > 0))
    precision = 1 / jnp.maximum(variances, 1e-6)  # a distribution on one bin has no variance
    # By default accelerators multiply float32 numbers in bfloat16 or TF32: some pixels would be lost.
    weight, weighted = (jnp.matmul(nearness, x, precision="highest") for x in (precision, precision * boxes))
    return jnp.where(weight > 0, weighted / jnp.where(weight > 0, weight, 1), kept)
