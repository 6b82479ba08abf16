"""Locations: the grid of points on each pyramid level at which the head predicts."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from gfl_jax.structures import SIZE_DIVISOR

GridSizes = tuple[tuple[int, int], ...]  # (rows, columns) of each level, finest first


class Locations(NamedTuple):
    """All locations, level by level and row by row. They depend on the canvas, not on the image.

    A location with several anchors occurs several times in succession, once for each anchor.
    """

    points: Float[np.ndarray, "locations 2"]  # (x, y) in pixels
    strides: Float[np.ndarray, "locations"]  # pixels
    anchors: Float[np.ndarray, "locations 4"]  # pixels
    levels: Int[np.ndarray, "locations"]
    grid_sizes: GridSizes


def grid_sizes_of(levels: Sequence[Float[Array, "batch h w c"]]) -> GridSizes:
    """Rows and columns of each level."""
    return tuple((x.shape[1], x.shape[2]) for x in levels)


def anchor_shapes(scale: float, octave_parts: int, ratios: Sequence[float]) -> Float[np.ndarray, "anchors 2"]:
    """(width, height) of the anchors of a location, in strides: ratio by ratio, from small to large."""
    sizes = scale * 2 ** (np.arange(octave_parts) / octave_parts)
    root = np.sqrt(np.asarray(ratios, np.float64))
    return np.stack([np.outer(1 / root, sizes), np.outer(root, sizes)], axis=-1).reshape(-1, 2)


def make_locations(
    grid_sizes: GridSizes,
    strides: Sequence[int],
    offset: float = 0.0,
    shapes: Float[np.ndarray, "anchors 2"] | None = None,
) -> Locations:
    """The locations of a pyramid.

    Args:
      grid_sizes: (rows, columns) of each level.
      strides: pixels between neighbors, level by level.
      offset: position of the first location, in strides along both axes (0.5: the middle of its cell).
      shapes: of the anchors, from `anchor_shapes`; None: one square with sides of 8 strides.
    """
    shapes = np.full((1, 2), 8.0) if shapes is None else shapes
    points, all_strides, anchors, levels = [], [], [], []
    for level, ((rows, columns), stride) in enumerate(zip(grid_sizes, strides, strict=True)):
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        centers = np.repeat((np.stack([x, y], axis=-1) + offset) * stride, len(shapes), axis=0)
        half = np.tile(shapes * stride / 2, (rows * columns, 1))
        points.append(centers)
        anchors.append(np.concatenate([centers - half, centers + half], axis=1))
        all_strides.append(np.full(len(centers), stride))
        levels.append(np.full(len(centers), level))
    return Locations(
        np.concatenate(points).astype(np.float32),
        np.concatenate(all_strides).astype(np.float32),
        np.concatenate(anchors).astype(np.float32),
        np.concatenate(levels),
        tuple(grid_sizes),
    )


def valid_grid_sizes(
    image_sizes: Int[Array, "batch 2"], grid_sizes: GridSizes, strides: Sequence[int]
) -> Int[Array, "batch levels 2"]:
    """Rows and columns of each level that lie on an image padded to a multiple of SIZE_DIVISOR.

    The rest of the canvas exists only because other images of the batch are larger. Its locations are
    ignored in training.
    """
    padded = -(-image_sizes // SIZE_DIVISOR) * SIZE_DIVISOR
    sizes = [
        jnp.minimum(-(-padded // s), jnp.asarray(grid)) for s, grid in zip(strides, grid_sizes, strict=True)
    ]
    return jnp.stack(sizes, axis=1)


def valid_locations(
    valid_sizes: Int[Array, "batch levels 2"], grid_sizes: GridSizes, num_anchors: int = 1
) -> Bool[Array, "batch locations"]:
    """Whether each location lies within the valid rows and columns of its level."""
    masks = []
    for level, (rows, columns) in enumerate(grid_sizes):
        row, column = np.repeat(np.mgrid[:rows, :columns].reshape(2, -1), num_anchors, axis=1)
        masks.append((row < valid_sizes[:, level, :1]) & (column < valid_sizes[:, level, 1:]))
    return jnp.concatenate(masks, axis=1)


def flatten_levels(
    levels: Sequence[Float[Array, "batch h w c"]], channels: int
) -> Float[Array, "batch locations channels"]:
    """Joins the maps of all levels in the order of `make_locations`, with `channels` for each anchor."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, channels) for x in levels], axis=1)


def split_levels(x: Shaped[Array, "batch locations"], locations: Locations) -> list[Shaped[Array, "batch n"]]:
    """Splits the locations by level."""
    ends = np.cumsum(np.bincount(locations.levels))
    return jnp.split(x, ends[:-1], axis=1)


def sum_per_level(x: Float[Array, "batch locations"], locations: Locations) -> Float[Array, "levels"]:
    """Sums over the batch and over the locations of each level."""
    return jnp.stack([jnp.sum(part) for part in split_levels(x, locations)])
