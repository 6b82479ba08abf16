"""Adaptive Training Sample Selection (ATSS, Zhang et al. 2020, Algorithm 1), without a matrix of all pairs.

The candidates of a box are the `topk` locations of each level that are nearest to its center. On a grid all
of them lie within the `topk` columns and the `topk` rows nearest to the center: in each row nearer locations
are selected first, and at most `topk` are selected. So each box looks at only topk x topk locations of a
level. The memory is boxes x levels x topk^2, for images of any size.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import boxes_to_distances, center, iou
from gfl_jax.targets.locations import GridSizes

MIN_DISTANCE = 0.01  # pixels from a positive location to every side of its box


def assign_atss(
    boxes: Float[Array, "boxes 4"],
    box_mask: Bool[Array, "boxes"],
    valid_sizes: Int[Array, "levels 2"],
    grid_sizes: GridSizes,
    strides: Sequence[int],
    topk: int = 9,
    anchor_scale: float = 8.0,
    offset: float = 0.0,
) -> Int[Array, "locations"]:
    """Assigns boxes to the locations of one image.

    Args:
      boxes: ground truths in pixels.
      box_mask: False for padding.
      valid_sizes: rows and columns of each level that lie on the image.
      grid_sizes: rows and columns of each level.
      strides: pixels between the locations of each level.
      topk: candidates of a box on each level.
      anchor_scale: side of the square anchor around a location, in strides.
      offset: position of the first location of a level, in strides along both axes.

    Returns:
      The index of each location's box, or -1 for background. If several boxes claim a location, the one with
      the largest IoU with its anchor wins.
    """
    centers = center(boxes)
    starts = np.cumsum([0] + [rows * columns for rows, columns in grid_sizes])
    found = []
    for level, (grid, stride) in enumerate(zip(grid_sizes, strides, strict=True)):
        shift = offset * stride
        index, points, valid = _nearest(centers - shift, stride, grid, valid_sizes[level], topk)
        points += shift
        half_side = jnp.full_like(points, anchor_scale * stride / 2)
        anchors = jnp.concatenate([points - half_side, points + half_side], axis=-1)
        found.append((index + starts[level], points, anchors, valid))
    index, points, anchors, valid = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))

    overlaps = iou(boxes[:, None], anchors)
    count = jnp.sum(valid, axis=1)
    mean = jnp.sum(overlaps, axis=1, where=valid) / count
    variance = jnp.sum(jnp.square(overlaps - mean[:, None]), axis=1, where=valid) / (count - 1)
    threshold = mean + jnp.sqrt(variance)
    inside = jnp.min(boxes_to_distances(points, boxes[:, None]), axis=-1) > MIN_DISTANCE
    positive = valid & inside & (overlaps >= threshold[:, None]) & box_mask[:, None]
    return _largest_overlap_wins(index, overlaps, positive, int(starts[-1]))


def _nearest(
    centers: Float[Array, "boxes 2"],
    stride: int,
    grid: tuple[int, int],
    valid_size: Int[Array, "2"],
    topk: int,
) -> tuple[Int[Array, "boxes k"], Float[Array, "boxes k 2"], Bool[Array, "boxes k"]]:
    """The `topk` locations of a level nearest to each center: their index, point and validity."""
    rows, row_valid = _nearest_on_axis(centers[:, 1] / stride, grid[0], valid_size[0], topk)
    columns, column_valid = _nearest_on_axis(centers[:, 0] / stride, grid[1], valid_size[1], topk)
    dy = rows * stride - centers[:, 1:]
    dx = columns * stride - centers[:, :1]
    distance = jnp.sqrt(jnp.square(dx)[:, None, :] + jnp.square(dy)[:, :, None])
    in_window = row_valid[:, :, None] & column_valid[:, None, :]
    distance = jnp.where(in_window, distance, jnp.inf).reshape(len(centers), -1)
    nearest, window_index = _smallest(distance, min(topk, distance.shape[1]))
    row = jnp.take_along_axis(rows, window_index // columns.shape[1], axis=1)
    column = jnp.take_along_axis(columns, window_index % columns.shape[1], axis=1)
    points = (jnp.stack([column, row], axis=-1) * stride).astype(centers.dtype)
    return row * grid[1] + column, points, nearest < jnp.inf


def _smallest(
    values: Float[Array, "rows n"], count: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    """The `count` smallest values of each row, in ascending order, and their indices; of equals the first.

    Infinite values stand for missing ones. `top_k` is avoided, because the compiler gathers the images of all
    devices before it.
    """
    indices = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    found = []
    for _ in range(count):
        least = jnp.min(values, axis=1, keepdims=True)
        index = jnp.min(jnp.where(values == least, indices, values.shape[1]), axis=1, keepdims=True)
        values = jnp.where(indices == index, jnp.inf, values)
        found.append((least, index))
    least, index = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return least, index


def _nearest_on_axis(
    coordinates: Float[Array, "boxes"], size: int, valid_size: Int[Array, ""], topk: int
) -> tuple[Int[Array, "boxes window"], Bool[Array, "boxes window"]]:
    """The `topk` consecutive integers nearest to each coordinate, and whether they are below `valid_size`."""
    window = min(topk, size)
    start = jnp.ceil(coordinates - window / 2).astype(jnp.int32)
    start = jnp.clip(start, 0, jnp.maximum(valid_size - window, 0))
    index = start[:, None] + jnp.arange(window)
    return index, index < valid_size


def _largest_overlap_wins(
    index: Int[Array, "boxes k"],
    overlaps: Float[Array, "boxes k"],
    positive: Bool[Array, "boxes k"],
    num_locations: int,
) -> Int[Array, "locations"]:
    """Scatters candidates to their locations. Of boxes with equal overlaps the first one wins."""
    num_boxes = index.shape[0]
    best = jnp.full(num_locations, -1, overlaps.dtype)
    best = best.at[index].max(jnp.where(positive, overlaps, -1))
    winner = positive & (overlaps == best[index])
    box = jnp.broadcast_to(jnp.arange(num_boxes)[:, None], index.shape)
    assigned = jnp.full(num_locations, num_boxes).at[index].min(jnp.where(winner, box, num_boxes))
    return jnp.where(assigned < num_boxes, assigned, -1)
