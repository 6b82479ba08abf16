"""Greedy non-maximum suppression with fixed shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import iou


def nms(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, "boxes"],
    labels: Int[Array, "boxes"],
    mask: Bool[Array, "boxes"],
    iou_threshold: float,
    max_kept: int,
) -> tuple[Int[Array, "kept"], Bool[Array, "kept"]]:
    """Keeps the best box again and again, and drops those of its class that overlap it.

    Only kept boxes suppress: each of the `max_kept` rounds takes the best box that is left, so
    the result is exact without an n x n matrix, and costs `max_kept` x n overlaps.

    Args:
      boxes: candidates; any coordinates.
      scores: the higher, the better; of equal scores the first box is taken.
      labels: boxes of different labels do not suppress each other.
      mask: False for what is no candidate.
      iou_threshold: boxes that overlap a kept one by more are dropped.
      max_kept: rounds.

    Returns:
      Indices of kept boxes, best first, and a mask that is False once none was left.
    """

    def keep_best(alive: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = jnp.argmax(jnp.where(alive, scores, -jnp.inf))
        found = alive[best]
        suppressed = (iou(boxes[best], boxes) > iou_threshold) & (labels == labels[best])
        return (alive & ~suppressed).at[best].set(False), (best, found)

    _, (kept, found) = jax.lax.scan(keep_best, mask, length=max_kept)
    return kept, found
