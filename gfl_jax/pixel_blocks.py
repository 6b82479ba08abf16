"""Images as blocks of 8x4 pixels, the layout that a TPU reads fastest.

A pixel has three channels, but the registers of a TPU have rows of 128 numbers. A block has the 96 channels
of 32 pixels at one location. On blocks, the 7x7 convolution with stride 2 in the stem of a residual network
becomes a 3x3 convolution with the same results. Each location of its output is a block of 4x2 results. Max
pooling reduces these to a pair of rows (`row_pairs`).
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped

from gfl_jax.strips import with_neighbors

BLOCK_HEIGHT, BLOCK_WIDTH = 8, 4  # in pixels
PIXELS = BLOCK_HEIGHT * BLOCK_WIDTH  # of a block
CHANNELS = PIXELS * 3  # of a block: rows, then pixels in a row, then colors
# The order of the four rows of results in a block. Adjacent ones can be compared 128 channels at a time.
_ORDER = (0, 2, 1, 3)
_RESULTS = 8  # in a block: two columns of four rows each


def to_blocks(
    images: Shaped[Any, "batch height width c"], block_height: int = BLOCK_HEIGHT
) -> Shaped[Any, "batch h w block"]:
    """Converts images to blocks of `block_height` x 4 pixels, which divide them. Numpy arrays stay such."""
    batch, height, width, channels = images.shape
    rows, columns = height // block_height, width // BLOCK_WIDTH
    blocks = images.reshape(batch, rows, block_height, columns, BLOCK_WIDTH, channels)
    return blocks.swapaxes(2, 3).reshape(batch, rows, columns, block_height * BLOCK_WIDTH * channels)


def to_pixels(images: Shaped[Any, "batch h w c"]) -> Shaped[Any, "batch height width 3"]:
    """Converts images to pixels if they are in blocks; other images are returned unchanged."""
    if not in_blocks(images):
        return images
    batch, rows, columns, _ = images.shape
    pixels = images.reshape(batch, rows, columns, BLOCK_HEIGHT, BLOCK_WIDTH, 3).swapaxes(2, 3)
    return pixels.reshape(batch, BLOCK_HEIGHT * rows, BLOCK_WIDTH * columns, 3)


def in_blocks(images: Shaped[Any, "batch h w c"]) -> bool:
    """Whether images are in blocks."""
    return bool(images.shape[-1] == CHANNELS)


def canvas_size(images: Shaped[Any, "batch h w c"]) -> tuple[int, int]:
    """(height, width) in pixels of images in blocks or in pixels."""
    rows, columns = (BLOCK_HEIGHT, BLOCK_WIDTH) if in_blocks(images) else (1, 1)
    return rows * images.shape[1], columns * images.shape[2]


def block_kernel(kernel: Float[Array, "7 7 in out"]) -> Float[Array, "3 3 32*in 8*out"]:
    """Converts a 7x7 kernel with stride 2 on pixels to the equivalent kernel with stride 1 on blocks.

    The results are in blocks of 4x2: column by column, with rows 0, 2, 1, 3 of each column, and `out`
    channels each.
    """
    channels, features = kernel.shape[2:]
    # Three blocks have 24 rows and 12 columns. Result (0, 0) of the middle block depends on rows 5 to 11 and
    # columns 1 to 7; the next row or column depends on two pixels more.
    moved = [
        jnp.pad(kernel, ((5 + 2 * i, 12 - 2 * i), (1 + 2 * j, 4 - 2 * j), (0, 0), (0, 0)))
        for j in (0, 1)
        for i in _ORDER
    ]
    kernels = jnp.stack(moved, axis=-2).reshape(3, BLOCK_HEIGHT, 3, BLOCK_WIDTH, channels, _RESULTS, features)
    return kernels.swapaxes(1, 2).reshape(3, 3, PIXELS * channels, _RESULTS * features)


def max_pool_of_blocks(
    x: Float[Array, "batch h w 8*c"], images: int | None = None
) -> Float[Array, "batch h w 2*c"]:
    """Max pooling over 3x3 with stride 2 and padding 1, for values that are not negative, in blocks of 4x2.

    Args:
      x: the values, in the order of `block_kernel`.
      images: number of images in the batch, if they are in strips.

    Returns:
      Pairs of rows. The upper one is the maximum of row 3 of the block above and rows 0 and 1; the lower one
      of rows 1, 2 and 3.
    """
    width, half = x.shape[2], x.shape[3] // 2
    with_left = with_neighbors(x, images or len(x), 1, 0)  # zeros at a border change no maximum

    def of_columns(rows: slice) -> Array:
        left = with_left[:, :, :width, half:][..., rows]
        return functools.reduce(jnp.maximum, (x[..., :half][..., rows], x[..., half:][..., rows], left))

    even, odd = of_columns(slice(half // 2)), of_columns(slice(half // 2, None))  # rows 0, 2 and rows 1, 3
    return jnp.maximum(jnp.maximum(even, odd), _one_row_above(odd))


def _one_row_above(odd: Float[Array, "batch h w 2*c"]) -> Float[Array, "batch h w 2*c"]:
    """Converts rows (1, 3) of each block to rows (-1, 1), where -1 is row 3 of the block above."""
    return lax.platform_dependent(odd, tpu=_above_by_convolution, default=_above_by_slices)


def _above_by_slices(odd: Array) -> Array:
    above = jnp.pad(odd, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    half = odd.shape[-1] // 2
    return jnp.concatenate([above[..., half:], odd[..., :half]], axis=-1)


def _above_by_convolution(odd: Array) -> Array:
    """The same bits from a convolution with ones and zeros, which on a TPU is faster than moving channels."""
    channels = odd.shape[-1]
    swap = np.roll(np.eye(channels), channels // 2, axis=1)
    lower = np.arange(channels)[:, None] >= channels // 2
    kernel = np.stack([swap * lower, swap * ~lower])[:, None]
    return lax.conv_general_dilated(
        odd,
        jnp.asarray(kernel, odd.dtype),
        window_strides=(1, 1),
        padding=((1, 0), (0, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
