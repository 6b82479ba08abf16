"""Exact greedy non-maximum suppression (NMS) with fixed shapes and few sequential steps."""

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
    """Repeatedly keeps the best remaining box and drops the boxes of its class that overlap it.

    Only kept boxes suppress others. Candidates are processed in blocks, best first, until `max_kept` boxes
    are kept or no candidate is left. In each block, boxes that overlap a kept box of an earlier block are
    dropped, and `settle` decides about the others. The result is exact and needs no n x n matrix. There are
    at most n / `block_size` blocks, with at most two rounds for each box that a block keeps.

    Args:
      boxes: candidates; any coordinates.
      scores: higher is better; of equal scores the first box wins. A score of -inf means no candidate.
      labels: boxes with different labels do not suppress each other.
      mask: False for boxes that are not candidates.
      iou_threshold: boxes whose IoU with a kept box is larger are dropped.
      max_kept: maximum number of kept boxes.
      block_size: candidates per block. Larger blocks need fewer sequential steps, which limit accelerators,
        but compute more overlaps, which limit CPUs. The result is the same.

    Returns:
      Indices of the kept boxes, best first, and a mask. Unused entries have the index 0 and the mask False.
    """
    size, slots = min(block_size, len(boxes)), min(max_kept, len(boxes))
    candidates = mask & (scores > -jnp.inf)
    order = jnp.argsort(jnp.where(candidates, -scores, jnp.inf))  # stable: the first of equals stays first
    count = jnp.sum(candidates, dtype=order.dtype)
    # Separate arrays let a CPU compute with whole vectors. Areas are computed outside of the loop, since
    # inside it a CPU rounds those of rows and columns differently (fused multiply-add).
    columns = (*boxes.T, area(boxes), labels)
    # Whether the row's box of a block is better than the column's.
    better = jnp.arange(size)[:, None] < jnp.arange(size)

    def candidates_remain(state: tuple[Array, Array, Array]) -> Array:
        start, number, _ = state
        return (start < count) & (number < slots)

    def process_block(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, number, kept = state
        ranks = start + jnp.arange(size)
        block = order[ranks]  # entries beyond `count` are arbitrary; they are dropped
        rows = jnp.concatenate([kept, block])
        x1, y1, x2, y2, areas, classes = (column[rows] for column in columns)
        width = jnp.minimum(x2[:, None], x2[slots:]) - jnp.maximum(x1[:, None], x1[slots:])
        height = jnp.minimum(y2[:, None], y2[slots:]) - jnp.maximum(y1[:, None], y1[slots:])
        common = jnp.maximum(width, 0) * jnp.maximum(height, 0)
        union = jnp.maximum(areas[:, None] + areas[slots:] - common, EPSILON)
        overlaps = (common / union > iou_threshold) & (classes[:, None] == classes[slots:])
        by_kept = jnp.any(overlaps[:slots] & (jnp.arange(slots) < number)[:, None], axis=0)
        dropped = settle(by_kept | (ranks >= count), overlaps[slots:] & better)
        slot = jnp.where(dropped, slots, number + jnp.cumsum(~dropped) - 1)  # slot `slots` does not exist
        # A sum in which at most one term is not 0: accelerators are slow at scattering.
        kept += jnp.sum(jnp.where(slot == jnp.arange(slots)[:, None], block, 0), axis=1)
        number += jnp.sum(~dropped, dtype=order.dtype)
        return start + size, number, kept

    zero = jnp.zeros((), order.dtype)
    _, number, kept = jax.lax.while_loop(
        candidates_remain, process_block, (zero, zero, jnp.zeros(slots, order.dtype))
    )
    return jnp.pad(kept, (0, max_kept - slots)), jnp.arange(max_kept) < number


def settle(dropped: Bool[Array, "block"], suppresses: Bool[Array, "block block"]) -> Bool[Array, "block"]:
    """Drops each box that is suppressed by a better box which is not dropped itself. Boxes come best first.

    Each round decides about all boxes at once, from the boxes that the previous round kept, until nothing
    changes. The result then equals that of a sequential pass. The best box is correct after one round, the
    boxes that it suppresses after two, the next kept box after three, and so on. This takes at most two
    rounds for each kept box, however long the chains are, and in practice two or three in all.

    Args:
      dropped: boxes that are dropped from the start.
      suppresses: whether the row's box, if it is kept, drops the column's box; only worse boxes.
    """

    def judge(state: tuple[Array, Array]) -> tuple[Array, Array]:
        before, _ = state
        after = dropped | jnp.any(suppresses & ~before[:, None], axis=0)
        return after, jnp.any(after != before)

    settled, _ = jax.lax.while_loop(lambda state: state[1], judge, (dropped, jnp.any(~dropped)))
    return settled
