"""ATSS on the whole matrix of locations and boxes, as Algorithm 1 is written.

It is slow and needs much memory. `atss.py` is checked and timed against it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import boxes_to_distances, center, iou
from gfl_jax.targets.atss import MIN_DISTANCE
from gfl_jax.targets.locations import GridSizes, make_locations, valid_locations


def assign_atss_dense(
    boxes: Float[Array, "boxes 4"],
    box_mask: Bool[Array, "boxes"],
    valid_sizes: Int[Array, "levels 2"],
    grid_sizes: GridSizes,
    strides: Sequence[int],
    topk: int = 9,
    anchor_scale: float = 8.0,
    offset: float = 0.0,
) -> Int[Array, "locations"]:
    """Assigns boxes to locations; has the arguments and the result of `atss.assign_atss`."""
    locations = make_locations(grid_sizes, strides, offset)
    valid = valid_locations(valid_sizes[None], grid_sizes)[0]
    points = jnp.asarray(locations.points, boxes.dtype)
    half_side = jnp.asarray(locations.strides, boxes.dtype)[:, None] * anchor_scale / 2
    overlaps = iou(boxes[:, None], jnp.concatenate([points - half_side, points + half_side], axis=-1)[None])
    distance = jnp.linalg.norm(points[None] - center(boxes)[:, None], axis=-1)
    distance = jnp.where(valid, distance, jnp.inf)

    candidate = jnp.zeros(overlaps.shape, bool)
    start = 0
    for rows, columns in grid_sizes:
        stop = start + rows * columns
        nearest, index = jax.lax.top_k(-distance[:, start:stop], min(topk, stop - start))
        candidate = candidate.at[jnp.arange(len(boxes))[:, None], index + start].set(nearest > -jnp.inf)
        start = stop

    count = jnp.sum(candidate, axis=1)
    mean = jnp.sum(overlaps, axis=1, where=candidate) / count
    variance = jnp.sum(jnp.square(overlaps - mean[:, None]), axis=1, where=candidate) / (count - 1)
    threshold = mean + jnp.sqrt(variance)
    inside = jnp.min(boxes_to_distances(points[None], boxes[:, None]), axis=-1) > MIN_DISTANCE
    positive = candidate & inside & (overlaps >= threshold[:, None]) & box_mask[:, None]
    overlaps = jnp.where(positive, overlaps, -1)
    return jnp.where(jnp.any(positive, axis=0), jnp.argmax(overlaps, axis=0), -1)
