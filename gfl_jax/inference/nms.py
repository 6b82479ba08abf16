"""Exact greedy non-maximum suppression with fixed shapes, in few steps one after the other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import EPSILON, area


def nms(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, "boxes"],
    labels: Int[Array, "boxes"],
    mask: Bool[Array, "boxes"],
    iou_threshold: float,
    max_kept: int,
    block_size: int = 256,
) -> tuple[Int[Array, "kept"], Bool[Array, "kept"]]:
    """Keeps the best box again and again, and drops those of its class that overlap it.

    Only kept boxes suppress. Candidates come in blocks, best first, until `max_kept` are kept or none
    is left: those that a kept box of an earlier block drops are out, and `settle` decides of the others.
    So the result is exact, without an n x n matrix. It takes at most n / `block_size` blocks, and in a
    block at most two rounds for each box that it keeps.

    Args:
      boxes: candidates; any coordinates.
      scores: the higher, the better; of equal scores the first box is taken. -inf is no candidate.
      labels: boxes of different labels do not suppress each other.
      mask: False for what is no candidate.
      iou_threshold: boxes that overlap a kept one by more are dropped.
      max_kept: how many are kept at most.
      block_size: candidates looked at together. The larger, the fewer steps one after the other, which
        accelerators wait for, but the more overlaps, which CPUs work on; the result is the same.

    Returns:
      Indices of kept boxes, best first, and a mask that is False once none was left; there the index is 0.
    """
    size, slots = min(block_size, len(boxes)), min(max_kept, len(boxes))
    candidates = mask & (scores > -jnp.inf)
    order = jnp.argsort(jnp.where(candidates, -scores, jnp.inf))  # stable: of equals the first stays first
    count = jnp.sum(candidates, dtype=order.dtype)
    # Apart, so that a CPU computes with whole vectors; and areas not in the loop, where it rounds those of
    # rows and columns differently (fused multiply-add).
    columns = (*boxes.T, area(boxes), labels)
    better = jnp.arange(size)[:, None] < jnp.arange(size)  # in a block: the row's box than the column's

    def is_left(state: tuple[Array, Array, Array]) -> Array:
        start, number, _ = state
        return (start < count) & (number < slots)

    def keep_of_block(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, number, kept = state
        ranks = start + jnp.arange(size)
        block = order[ranks]  # beyond `count` whatever it says: that is dropped
        rows = jnp.concatenate([kept, block])
        x1, y1, x2, y2, areas, classes = (column[rows] for column in columns)
        width = jnp.minimum(x2[:, None], x2[slots:]) - jnp.maximum(x1[:, None], x1[slots:])
        height = jnp.minimum(y2[:, None], y2[slots:]) - jnp.maximum(y1[:, None], y1[slots:])
        common = jnp.maximum(width, 0) * jnp.maximum(height, 0)
        union = jnp.maximum(areas[:, None] + areas[slots:] - common, EPSILON)
        overlaps = (common / union > iou_threshold) & (classes[:, None] == classes[slots:])
        by_kept = jnp.any(overlaps[:slots] & (jnp.arange(slots) < number)[:, None], axis=0)
        dropped = settle(by_kept | (ranks >= count), overlaps[slots:] & better)
        place = jnp.where(dropped, slots, number + jnp.cumsum(~dropped) - 1)  # there is no place `slots`
        # A sum of what is 0 but for one box: accelerators are slow at writing to places.
        kept += jnp.sum(jnp.where(place == jnp.arange(slots)[:, None], block, 0), axis=1)
        number += jnp.sum(~dropped, dtype=order.dtype)
        return start + size, number, kept

    zero = jnp.zeros((), order.dtype)
    _, number, kept = jax.lax.while_loop(is_left, keep_of_block, (zero, zero, jnp.zeros(slots, order.dtype)))
    return jnp.pad(kept, (0, max_kept - slots)), jnp.arange(max_kept) < number


def settle(dropped: Bool[Array, "block"], suppresses: Bool[Array, "block block"]) -> Bool[Array, "block"]:
    """Drops from boxes, best first, those that a better one suppresses which itself is not dropped.

    Each round judges all boxes at once by what the last one left of the better ones, until nothing
    changes. Then each is judged by those that are kept, as if one came after the other. The best box
    is right after one round, what it suppresses after two, the next that is kept after three, and so
    on: at most two rounds for a kept box, however long the chains are; in practice two or three in all.

    Args:
      dropped: those that are out from the start.
      suppresses: whether the row's box, if it is kept, drops the column's; only worse ones.
    """

    def judge(state: tuple[Array, Array]) -> tuple[Array, Array]:
        before, _ = state
        after = dropped | jnp.any(suppresses & ~before[:, None], axis=0)
        return after, jnp.any(after != before)

    settled, _ = jax.lax.while_loop(lambda state: state[1], judge, (dropped, jnp.any(~dropped)))
    return settled
