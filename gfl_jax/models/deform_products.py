"""Deformable convolution as products of matrices, for TPUs.

A TPU reads rows of an array at computed positions one by one, 18 cycles each. So this form reads whole
windows of pixels. Bilinear interpolation is a sum over all pixels, weighted by a hat function of the vertical
distance times one of the horizontal distance. The weight is zero for all but four pixels. For the positions
of a block these weights are a matrix, which is computed while it is multiplied with a window.

A block has as many windows as its positions span, in all images of the batch. Larger offsets take longer, and
none is cut off. Gradients are products too: nothing is scattered, and every sum has a fixed order. Sums over
pixels, over the points of the kernel and over blocks are in float32. Besides the input, the offsets, the
result and their gradients, little is stored: for each image some arrays of BLOCK samples of each point in
float32, and in the backward pass the gradient of the input in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gfl_jax.models.joined_groups import join_groups, num_joined

BLOCK = 256  # positions; with more, windows span more rows; with fewer, matrices are too small
WINDOW = 768  # pixels, row by row; with fewer, samples are read and written more often


def deform_by_products(
    x: Float[Array, "batch height width in"],
    positions: Float[Array, "points batch deform_groups positions 2"],
    mask: Float[Array, "points batch deform_groups positions"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    groups: int,
) -> Float[Array, "batch positions out"]:
    """Samples `x` at separate positions for each point of the kernel, and applies the kernel.

    Args:
      x: features; they must be finite, because each pixel of a window is multiplied by a weight, often zero.
      positions: (y, x) in pixels; samples beyond the border are zeros.
      mask: a factor for each sample; None: 1.
      kernel: weights.
      groups: number of groups of channels, as in any convolution.
    """
    pixels, blocks = _lay_out(x, positions, mask)
    matrices = _matrices(kernel, groups)

    def fill_block(out: Array, block: Any) -> tuple[Array, None]:
        number, windows, (position, factor) = block
        samples = _sample(pixels, position, factor, windows, x.shape[2])
        for tile, product in enumerate(_apply(samples, matrices)):
            start = (0, number * BLOCK, tile * product.shape[-1])
            out = jax.lax.dynamic_update_slice(out, product.astype(x.dtype), start)
        return out, None

    count = blocks[0].shape[0]
    empty = jax.lax.empty((x.shape[0], count * BLOCK, kernel.shape[-1]), x.dtype)
    windows = _windows(blocks[0], x.shape[1:3])
    out, _ = jax.lax.scan(fill_block, empty, (jnp.arange(count), windows, blocks))
    return out[:, : positions.shape[3]]


def gradient_by_products(
    x: Float[Array, "batch height width in"],
    positions: Float[Array, "points batch deform_groups positions 2"],
    mask: Float[Array, "points batch deform_groups positions"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    g: Float[Array, "batch positions out"],
    groups: int,
) -> tuple[Array, Array, Array | None, Array]:
    """The gradients of `x`, `positions`, `mask` and `kernel`; `g` is the gradient of the result."""
    (pixels, blocks), to_x_and_positions = jax.vjp(_lay_out, x, positions, mask)
    matrices, to_kernel = jax.vjp(lambda kernel: _matrices(kernel, groups), kernel)
    matrices = jax.lax.optimization_barrier(matrices)  # else XLA recomputes them for each block
    g = jnp.pad(g, ((0, 0), (0, -g.shape[1] % BLOCK), (0, 0)))
    g = g.reshape(g.shape[0], -1, BLOCK, g.shape[-1]).swapaxes(0, 1)

    def add_block(totals: tuple[Array, Array], block: Any) -> tuple[tuple[Array, Array], Any]:
        """Adds a block to the gradients of the pixels, and of the matrices for each image.

        Devices that share a batch sum the gradients of the matrices only once, at the end.
        """
        windows, (position, factor), g = block
        by_sample = _gradient_of_samples(g, matrices, position.shape[1]).astype(x.dtype)
        samples, by_pixel, by_position_and_factor = _sample_gradient(
            pixels, position, factor, windows, x.shape[2], by_sample, totals[0]
        )
        return (by_pixel, totals[1] + _gradient_of_matrices(samples, g, matrices)), by_position_and_factor

    zeros = jnp.zeros(pixels.shape, matrices.dtype), jnp.zeros((x.shape[0], *matrices.shape), matrices.dtype)
    windows = _windows(blocks[0], x.shape[1:3])
    (by_pixel, by_matrix), by_block = jax.lax.scan(add_block, zeros, (windows, blocks, g))
    return *to_x_and_positions((by_pixel.astype(x.dtype), by_block)), *to_kernel(jnp.sum(by_matrix, axis=0))


def _lay_out(x: Array, positions: Array, mask: Array | None) -> tuple[Array, tuple[Array, Array | None]]:
    """Pixels (batch, deform group, pixel, channel), and the positions of each block with their factors.

    A small image is padded with pixels of zeros, and the last block with positions outside of the image.
    """
    batch, height, width, _ = x.shape
    deform_groups, count = positions.shape[2:4]
    pixels = x.reshape(batch, height * width, deform_groups, -1).swapaxes(1, 2)
    pixels = jnp.pad(pixels, ((0, 0), (0, 0), (0, max(0, WINDOW - height * width)), (0, 0)))

    def by_block(a: Array) -> Array:
        """Splits an array into (block, batch, deform group, point and position, ...)."""
        rest = [(0, 0)] * (a.ndim - 4)
        a = jnp.pad(a, [(0, 0)] * 3 + [(0, -count % BLOCK), *rest], constant_values=-2)
        a = jnp.moveaxis(a.reshape(*a.shape[:3], -1, BLOCK, *a.shape[4:]), (3, 0), (0, 3))
        return a.reshape(*a.shape[:3], -1, *a.shape[5:])

    return pixels, jax.tree.map(by_block, (positions, mask))


def _windows(
    positions: Float[Array, "blocks batch deform_groups n 2"], shape: tuple[int, ...]
) -> tuple[Int[Array, " blocks"], Int[Array, " blocks"]]:
    """The first pixel that a block reads, in any image, and the number of its windows from there on."""
    corner, last = jnp.floor(positions), np.array(shape) - 1
    in_view = jnp.all((corner >= -1) & (corner <= last), axis=-1)

    def index(corner: Array) -> Array:
        row, column = jnp.moveaxis(jnp.clip(corner, 0, last).astype(jnp.int32), -1, 0)
        return row * shape[1] + column

    each = (1, 2, 3)
    first = jnp.min(index(corner), axis=each, where=in_view, initial=shape[0] * shape[1])
    end = jnp.max(index(corner + 1) + 1, axis=each, where=in_view, initial=0)
    return first, jnp.maximum(0, -((first - end) // WINDOW))


def _window(
    position: Float[Array, "*n 2"], windows: tuple[Array, Array], i: Array, width: int, length: int
) -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
    """The first pixel of the i-th window, and the weights of its pixels for each position.

    There are `length` pixels. The last window ends with the last pixel, and its pixels that belong to an
    earlier window have the weight 0.

    Returns:
      The first pixel; the vertical and the horizontal weights; the slopes of both.
    """
    start = windows[0] + i * WINDOW
    begin = jnp.minimum(start, length - WINDOW)
    pixel = begin + jnp.arange(WINDOW)
    far_away = jnp.finfo(position.dtype).min
    row = jnp.where(pixel >= start, (pixel // width).astype(position.dtype), far_away)
    down = position[..., :1] - row
    right = position[..., 1:] - (pixel % width).astype(position.dtype)
    return begin, (_hat(down), _hat(right)), (_slope(down), _slope(right))


def _hat(distance: Array) -> Array:
    return jnp.maximum(0, 1 - jnp.abs(distance))


def _slope(distance: Array) -> Array:
    """The slope of the hat. A position exactly on a pixel counts as between it and the next one."""
    before = (distance >= -1) & (distance < 0)
    after = (distance >= 0) & (distance < 1)
    return jnp.where(before, 1, jnp.where(after, -1, 0)).astype(distance.dtype)


def _sample(
    pixels: Float[Array, "batch deform_groups pixels channels"],
    position: Float[Array, "batch deform_groups n 2"],
    factor: Float[Array, "batch deform_groups n"] | None,
    windows: tuple[Array, Array],
    width: int,
) -> Float[Array, "batch deform_groups n channels"]:
    """Samples by bilinear interpolation, times the factors, in float32 or wider."""

    def add_window(i: Array, total: Array) -> Array:
        begin, (down, right), _ = _window(position, windows, i, width, pixels.shape[2])
        seen = jax.lax.dynamic_slice_in_dim(pixels, begin, WINDOW, axis=2)
        weights = _times(factor, down * right).astype(pixels.dtype)
        return total + _product("bdnp,bdpc->bdnc", weights, seen)

    zeros = jnp.zeros((*position.shape[:-1], pixels.shape[-1]), jnp.promote_types(pixels.dtype, jnp.float32))
    return jax.lax.fori_loop(0, windows[1], add_window, zeros)


def _sample_gradient(
    pixels: Float[Array, "batch deform_groups pixels channels"],
    position: Float[Array, "batch deform_groups n 2"],
    factor: Float[Array, "batch deform_groups n"] | None,
    windows: tuple[Array, Array],
    width: int,
    g: Float[Array, "batch deform_groups n channels"],
    by_pixel: Float[Array, "batch deform_groups pixels channels"],
) -> tuple[Array, Array, tuple[Array, Array | None]]:
    """The recomputed samples, `by_pixel` plus their gradient, and the gradients of positions and factors."""

    def add_window(i: Array, totals: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        samples, by_pixel, sums = totals
        begin, (down, right), slopes = _window(position, windows, i, width, pixels.shape[2])
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

    sums = jnp.zeros((*position.shape[:-1], 2 if factor is None else 3), position.dtype)
    zeros = jnp.zeros(g.shape, by_pixel.dtype), by_pixel, sums
    samples, by_pixel, sums = jax.lax.fori_loop(0, windows[1], add_window, zeros)
    by_factor = None if factor is None else sums[..., 2].astype(factor.dtype)
    return samples, by_pixel, (_times(factor, sums[..., :2]), by_factor)


def _times(factor: Float[Array, "*n"] | None, x: Float[Array, "*n m"]) -> Float[Array, "*n m"]:
    return x if factor is None else x * factor[..., None]


def _product(axes: str, a: Array, b: Array) -> Array:
    """A product that is summed in float32 or wider."""
    # By default a TPU would round the factors to bfloat16.
    precision = None if a.dtype == jnp.bfloat16 else "highest"
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(axes, a, b, precision=precision, preferred_element_type=dtype)


def _matrices(
    kernel: Float[Array, "size size in_per_group out"], groups: int
) -> Float[Array, "points tiles in out"]:
    """The kernel as matrices in float32 or wider, one for each point and each tile (a joined group)."""
    size, _, each, out = kernel.shape
    tiles = num_joined(each * groups, groups)
    joined = join_groups(kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32)), groups)
    return joined.reshape(size * size, -1, tiles, out // tiles).swapaxes(1, 2)


def _apply(
    samples: Float[Array, "batch deform_groups n channels"], matrices: Float[Array, "points tiles in out"]
) -> list[Float[Array, "batch positions out"]]:
    """The product with the kernel, summed over its points, for each tile."""
    parts = enumerate(_split(samples, *matrices.shape[:2]))
    return [jnp.einsum("bknc,kco->bno", part, matrices[:, tile]) for tile, part in parts]


def _split(
    samples: Float[Array, "batch deform_groups n channels"], points: int, tiles: int
) -> list[Float[Array, "batch points positions in"]]:
    """Splits samples by tile."""
    batch, deform_groups, _, channels = samples.shape
    by_point = jnp.moveaxis(samples.reshape(batch, deform_groups, points, -1, channels), 1, 3)
    return jnp.split(by_point.reshape(*by_point.shape[:3], -1), tiles, axis=-1)


def _gradient_of_samples(
    g: Float[Array, "batch positions out"], matrices: Float[Array, "points tiles in out"], deform_groups: int
) -> Float[Array, "batch deform_groups n channels"]:
    """The gradient of the samples in `_apply`, in one product: those of tiles would have to be joined."""
    g = g.reshape(*g.shape[:2], matrices.shape[1], -1).astype(matrices.dtype)
    by_point = jnp.einsum("bnto,ktco->bkntc", g, matrices)
    by_group = jnp.moveaxis(by_point.reshape(*by_point.shape[:3], deform_groups, -1), 3, 1)
    return by_group.reshape(*by_group.shape[:2], -1, by_group.shape[-1])


def _gradient_of_matrices(
    samples: Float[Array, "batch deform_groups n channels"],
    g: Float[Array, "batch positions out"],
    matrices: Float[Array, "points tiles in out"],
) -> Float[Array, "batch points tiles in out"]:
    """The gradient of the matrices in `_apply`, for each image."""
    parts = zip(
        _split(samples, *matrices.shape[:2]),
        jnp.split(g.astype(samples.dtype), matrices.shape[1], axis=-1),
        strict=True,
    )
    return jnp.stack([jnp.einsum("bknc,bno->bkco", part, g) for part, g in parts], axis=2)
