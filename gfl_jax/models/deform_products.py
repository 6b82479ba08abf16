"""Deformable convolution as products of matrices, for TPUs.

A TPU reads rows of an array at computed places one by one, 18 cycles each. So whole windows of pixels
are read here: bilinear interpolation is a sum over all pixels, weighted by a hat function of the
distance down times one of the distance to the right, which is zero for all but four of them. For the
places of a block these weights are a matrix, made while it is multiplied with a window.

A block has as many windows as its places reach over, in all images of the batch: larger offsets take
longer, and none is cut off. Gradients are products too, so nothing is scattered, and every sum has
a fixed order. Sums over pixels, over the points of the kernel and over blocks are in float32. Beside
the input, the offsets, the result and their gradients, little is kept: for each image some arrays of
BLOCK samples of each point in float32, and backward the gradient of the input in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gfl_jax.models.joined_groups import join_groups, num_joined

BLOCK = 256  # places; with more, windows reach over more rows; with fewer, matrices are too small
WINDOW = 768  # pixels, row by row; with fewer, samples are read and written again more often


def deform_by_products(
    x: Float[Array, "batch height width in"],
    places: Float[Array, "points batch deform_groups places 2"],
    mask: Float[Array, "points batch deform_groups places"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    groups: int,
) -> Float[Array, "batch places out"]:
    """Samples `x` for each point of the kernel at places of its own, and applies the kernel.

    Args:
      x: features; finite, since each pixel of a window is multiplied, with zero if need be.
      places: (y, x) in pixels; zeros are found beyond the border.
      mask: factor of each sample; None: 1.
      kernel: weights.
      groups: of channels, as in any convolution.
    """
    pixels, blocks = _lay_out(x, places, mask)
    matrices = _matrices(kernel, groups)

    def fill_block(out: Array, block: Any) -> tuple[Array, None]:
        number, windows, (place, factor) = block
        samples = _sample(pixels, place, factor, windows, x.shape[2])
        for tile, product in enumerate(_apply(samples, matrices)):
            start = (0, number * BLOCK, tile * product.shape[-1])
            out = jax.lax.dynamic_update_slice(out, product.astype(x.dtype), start)
        return out, None

    count = blocks[0].shape[0]
    empty = jax.lax.empty((x.shape[0], count * BLOCK, kernel.shape[-1]), x.dtype)
    windows = _windows(blocks[0], x.shape[1:3])
    out, _ = jax.lax.scan(fill_block, empty, (jnp.arange(count), windows, blocks))
    return out[:, : places.shape[3]]


def gradient_by_products(
    x: Float[Array, "batch height width in"],
    places: Float[Array, "points batch deform_groups places 2"],
    mask: Float[Array, "points batch deform_groups places"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    g: Float[Array, "batch places out"],
    groups: int,
) -> tuple[Array, Array, Array | None, Array]:
    """The gradients of `x`, `places`, `mask` and `kernel`; `g` is that of the result."""
    (pixels, blocks), to_x_and_places = jax.vjp(_lay_out, x, places, mask)
    matrices, to_kernel = jax.vjp(lambda kernel: _matrices(kernel, groups), kernel)
    matrices = jax.lax.optimization_barrier(matrices)  # or XLA would make them anew for each block
    g = jnp.pad(g, ((0, 0), (0, -g.shape[1] % BLOCK), (0, 0)))
    g = g.reshape(g.shape[0], -1, BLOCK, g.shape[-1]).swapaxes(0, 1)

    def add_block(totals: tuple[Array, Array], block: Any) -> tuple[tuple[Array, Array], Any]:
        """The carry: the gradients so far of the pixels, and of the matrices for each image.

        Devices that share a batch add up those once, at the end.
        """
        windows, (place, factor), g = block
        by_sample = _gradient_of_samples(g, matrices, place.shape[1]).astype(x.dtype)
        samples, by_pixel, by_place_and_factor = _sample_gradient(
            pixels, place, factor, windows, x.shape[2], by_sample, totals[0]
        )
        return (by_pixel, totals[1] + _gradient_of_matrices(samples, g, matrices)), by_place_and_factor

    zeros = jnp.zeros(pixels.shape, matrices.dtype), jnp.zeros((x.shape[0], *matrices.shape), matrices.dtype)
    windows = _windows(blocks[0], x.shape[1:3])
    (by_pixel, by_matrix), by_block = jax.lax.scan(add_block, zeros, (windows, blocks, g))
    return *to_x_and_places((by_pixel.astype(x.dtype), by_block)), *to_kernel(jnp.sum(by_matrix, axis=0))


def _lay_out(x: Array, places: Array, mask: Array | None) -> tuple[Array, tuple[Array, Array | None]]:
    """Pixels (batch, deform group, pixel, channel) and, by block, the places and their factors.

    A small image has pixels of zeros after the last one, the last block places far outside.
    """
    batch, height, width, _ = x.shape
    deform_groups, count = places.shape[2:4]
    pixels = x.reshape(batch, height * width, deform_groups, -1).swapaxes(1, 2)
    pixels = jnp.pad(pixels, ((0, 0), (0, 0), (0, max(0, WINDOW - height * width)), (0, 0)))

    def by_block(a: Array) -> Array:
        """(block, batch, deform group, point and place, ...)"""
        rest = [(0, 0)] * (a.ndim - 4)
        a = jnp.pad(a, [(0, 0)] * 3 + [(0, -count % BLOCK), *rest], constant_values=-2)
        a = jnp.moveaxis(a.reshape(*a.shape[:3], -1, BLOCK, *a.shape[4:]), (3, 0), (0, 3))
        return a.reshape(*a.shape[:3], -1, *a.shape[5:])

    return pixels, jax.tree.map(by_block, (places, mask))


def _windows(
    places: Float[Array, "blocks batch deform_groups n 2"], shape: tuple[int, ...]
) -> tuple[Int[Array, " blocks"], Int[Array, " blocks"]]:
    """The first pixel that a block sees, in any image, and the number of its windows from there on."""
    corner, last = jnp.floor(places), np.array(shape) - 1
    in_view = jnp.all((corner >= -1) & (corner <= last), axis=-1)

    def index(corner: Array) -> Array:
        row, column = jnp.moveaxis(jnp.clip(corner, 0, last).astype(jnp.int32), -1, 0)
        return row * shape[1] + column

    each = (1, 2, 3)
    first = jnp.min(index(corner), axis=each, where=in_view, initial=shape[0] * shape[1])
    end = jnp.max(index(corner + 1) + 1, axis=each, where=in_view, initial=0)
    return first, jnp.maximum(0, -((first - end) // WINDOW))


def _window(
    place: Float[Array, "*n 2"], windows: tuple[Array, Array], i: Array, width: int, length: int
) -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
    """Where the i-th window begins, and what its pixels count at each place, down and to the right.

    At last the slopes of both. There are `length` pixels: the last window begins so that it ends with
    them, and what an earlier one has in it counts nothing.
    """
    start = windows[0] + i * WINDOW
    begin = jnp.minimum(start, length - WINDOW)
    pixel = begin + jnp.arange(WINDOW)
    nowhere = jnp.finfo(place.dtype).min
    row = jnp.where(pixel >= start, (pixel // width).astype(place.dtype), nowhere)
    down = place[..., :1] - row
    right = place[..., 1:] - (pixel % width).astype(place.dtype)
    return begin, (_hat(down), _hat(right)), (_slope(down), _slope(right))


def _hat(distance: Array) -> Array:
    return jnp.maximum(0, 1 - jnp.abs(distance))


def _slope(distance: Array) -> Array:
    """Of the hat; a place on a pixel is taken to lie between it and the next one."""
    before = (distance >= -1) & (distance < 0)
    after = (distance >= 0) & (distance < 1)
    return jnp.where(before, 1, jnp.where(after, -1, 0)).astype(distance.dtype)


def _sample(
    pixels: Float[Array, "batch deform_groups pixels channels"],
    place: Float[Array, "batch deform_groups n 2"],
    factor: Float[Array, "batch deform_groups n"] | None,
    windows: tuple[Array, Array],
    width: int,
) -> Float[Array, "batch deform_groups n channels"]:
    """Bilinear interpolation, times the factors, in float32 or more."""

    def add_window(i: Array, total: Array) -> Array:
        begin, (down, right), _ = _window(place, windows, i, width, pixels.shape[2])
        seen = jax.lax.dynamic_slice_in_dim(pixels, begin, WINDOW, axis=2)
        weights = _times(factor, down * right).astype(pixels.dtype)
        return total + _product("bdnp,bdpc->bdnc", weights, seen)

    zeros = jnp.zeros((*place.shape[:-1], pixels.shape[-1]), jnp.promote_types(pixels.dtype, jnp.float32))
    return jax.lax.fori_loop(0, windows[1], add_window, zeros)


def _sample_gradient(
    pixels: Float[Array, "batch deform_groups pixels channels"],
    place: Float[Array, "batch deform_groups n 2"],
    factor: Float[Array, "batch deform_groups n"] | None,
    windows: tuple[Array, Array],
    width: int,
    g: Float[Array, "batch deform_groups n channels"],
    by_pixel: Float[Array, "batch deform_groups pixels channels"],
) -> tuple[Array, Array, tuple[Array, Array | None]]:
    """The samples anew, `by_pixel` with their gradient added, and the gradients of places and factors."""

    def add_window(i: Array, totals: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        samples, by_pixel, sums = totals
        begin, (down, right), slopes = _window(place, windows, i, width, pixels.shape[2])
        seen, so_far = (jax.lax.dynamic_slice_in_dim(a, begin, WINDOW, axis=2) for a in (pixels, by_pixel))
        weights = _times(factor, down * right).astype(pixels.dtype)
        samples += _product("bdnp,bdpc->bdnc", weights, seen)
        more = so_far + _product("bdnp,bdnc->bdpc", weights, g)
        by_pixel = jax.lax.dynamic_update_slice_in_dim(by_pixel, more, begin, axis=2)
        by_weight = _product("bdnc,bdpc->bdnp", g, seen)
        ways = (slopes[0] * right, down * slopes[1], down * right)[: sums.shape[-1]]
        return (
            samples,
            by_pixel,
            sums + jnp.stack([jnp.sum(by_weight * way, axis=-1) for way in ways], axis=-1),
        )

    sums = jnp.zeros((*place.shape[:-1], 2 if factor is None else 3), place.dtype)
    zeros = jnp.zeros(g.shape, by_pixel.dtype), by_pixel, sums
    samples, by_pixel, sums = jax.lax.fori_loop(0, windows[1], add_window, zeros)
    by_factor = None if factor is None else sums[..., 2].astype(factor.dtype)
    return samples, by_pixel, (_times(factor, sums[..., :2]), by_factor)


def _times(factor: Float[Array, "*n"] | None, x: Float[Array, "*n m"]) -> Float[Array, "*n m"]:
    return x if factor is None else x * factor[..., None]


def _product(axes: str, a: Array, b: Array) -> Array:
    """Summed in float32 or more. By default a TPU would round its factors to bfloat16."""
    precision = None if a.dtype == jnp.bfloat16 else "highest"
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(axes, a, b, precision=precision, preferred_element_type=dtype)


def _matrices(
    kernel: Float[Array, "size size in_per_group out"], groups: int
) -> Float[Array, "points tiles in out"]:
    """In float32 or more; a tile is what joined groups have in common."""
    size, _, each, out = kernel.shape
    tiles = num_joined(each * groups, groups)
    joined = join_groups(kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32)), groups)
    return joined.reshape(size * size, -1, tiles, out // tiles).swapaxes(1, 2)


def _apply(
    samples: Float[Array, "batch deform_groups n channels"], matrices: Float[Array, "points tiles in out"]
) -> list[Float[Array, "batch places out"]]:
    """For each tile the product with the kernel, summed over its points."""
    parts = enumerate(_split(samples, *matrices.shape[:2]))
    return [jnp.einsum("bknc,kco->bno", part, matrices[:, tile]) for tile, part in parts]


def _split(
    samples: Float[Array, "batch deform_groups n channels"], points: int, tiles: int
) -> list[Float[Array, "batch points places in"]]:
    """By tile."""
    batch, deform_groups, _, channels = samples.shape
    by_point = jnp.moveaxis(samples.reshape(batch, deform_groups, points, -1, channels), 1, 3)
    return jnp.split(by_point.reshape(*by_point.shape[:3], -1), tiles, axis=-1)


def _gradient_of_samples(
    g: Float[Array, "batch places out"], matrices: Float[Array, "points tiles in out"], deform_groups: int
) -> Float[Array, "batch deform_groups n channels"]:
    """What `_apply` gives to the samples, in one product: those of single tiles would have to be joined."""
    g = g.reshape(*g.shape[:2], matrices.shape[1], -1).astype(matrices.dtype)
    by_point = jnp.einsum("bnto,ktco->bkntc", g, matrices)
    by_group = jnp.moveaxis(by_point.reshape(*by_point.shape[:3], deform_groups, -1), 3, 1)
    return by_group.reshape(*by_group.shape[:2], -1, by_group.shape[-1])


def _gradient_of_matrices(
    samples: Float[Array, "batch deform_groups n channels"],
    g: Float[Array, "batch places out"],
    matrices: Float[Array, "points tiles in out"],
) -> Float[Array, "batch points tiles in out"]:
    """What `_apply` gives to the matrices, for each image."""
    parts = zip(
        _split(samples, *matrices.shape[:2]),
        jnp.split(g.astype(samples.dtype), matrices.shape[1], axis=-1),
        strict=True,
    )
    return jnp.stack([jnp.einsum("bknc,bno->bkco", part, g) for part, g in parts], axis=2)
