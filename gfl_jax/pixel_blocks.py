"""Images as blocks of 4x4 pixels, the layout that a TPU reads fastest.

A pixel has three channels, but the registers of a TPU have rows of 128 numbers. A block has the 48 channels
of 16 pixels at one location. On blocks, the 7x7 convolution with stride 2 in the stem of a residual network
becomes a 3x3 convolution with the same results. Each location of its output is a block of 2x2 results, and
the max pooling works on these blocks.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from gfl_jax.strips import with_neighbors

SIDE = 4  # of a block, in pixels
CHANNELS = SIDE * SIDE * 3  # of a block: rows, then pixels in a row, then colors


def to_blocks(images: Shaped[Any, "batch height width c"]) -> Shaped[Any, "batch height/4 width/4 16*c"]:
    """Converts images to blocks; height and width must be multiples of 4. Numpy arrays stay numpy arrays."""
    batch, height, width, channels = images.shape
    blocks = images.reshape(batch, height // SIDE, SIDE, width // SIDE, SIDE, channels)
    return blocks.swapaxes(2, 3).reshape(batch, height // SIDE, width // SIDE, SIDE * SIDE * channels)


def to_pixels(images: Shaped[Any, "batch h w c"]) -> Shaped[Any, "batch height width 3"]:
    """Converts images to pixels if they are in blocks; other images are returned unchanged."""
    if not in_blocks(images):
        return images
    batch, rows, columns, _ = images.shape
    pixels = images.reshape(batch, rows, columns, SIDE, SIDE, 3).swapaxes(2, 3)
    return pixels.reshape(batch, SIDE * rows, SIDE * columns, 3)


def in_blocks(images: Shaped[Any, "batch h w c"]) -> bool:
    """Whether images are in blocks."""
    return bool(images.shape[-1] == CHANNELS)


def canvas_size(images: Shaped[Any, "batch h w c"]) -> tuple[int, int]:
    """(height, width) in pixels of images in blocks or in pixels."""
    side = SIDE if in_blocks(images) else 1
    return side * images.shape[1], side * images.shape[2]


def block_kernel(kernel: Float[Array, "7 7 in out"]) -> Float[Array, "3 3 16*in 4*out"]:
    """Converts a 7x7 kernel with stride 2 on pixels to the equivalent kernel with stride 1 on blocks.

    The results are in blocks of 2x2, row by row, with `out` channels each.
    """
    channels, features = kernel.shape[2:]
    # Three blocks have 12 rows: result row 0 of a block depends on rows 1 to 7, and result row 1 on 3 to 9.
    padded = jnp.pad(kernel, ((3, 4), (3, 4), (0, 0), (0, 0)))
    moved = [padded[2 - 2 * i : 14 - 2 * i, 2 - 2 * j : 14 - 2 * j] for i in (0, 1) for j in (0, 1)]
    kernels = jnp.stack(moved, axis=-2).reshape(3, SIDE, 3, SIDE, channels, 4, features)
    return kernels.swapaxes(1, 2).reshape(3, 3, SIDE * SIDE * channels, 4 * features)


def max_pool_of_blocks(
    x: Float[Array, "batch h w 4*c"], images: int | None = None
) -> Float[Array, "batch h w c"]:
    """Max pooling over 3x3 with stride 2 and padding 1, for values that are not negative, in blocks of 2x2.

    Each result uses the four values of its own block and the adjacent values of the blocks above and to the
    left.

    Args:
      x: the values, in blocks.
      images: number of images in the batch, if they are in strips.
    """
    rows, columns, channels = x.shape[1], x.shape[2], x.shape[3] // 4
    # Zeros change no maximum. Whole images are padded in one step, which TPUs fuse with the step before it.
    left = 1 if images is None else 0
    padded = x if images is None else with_neighbors(x, images, 1, 0)
    padded = jnp.pad(padded, ((0, 0), (1, 0), (left, 0), (0, 0)))

    def values(above: int, left: int, row: int, column: int) -> Array:
        block = padded[:, 1 - above : 1 - above + rows, 1 - left : 1 - left + columns]
        first = (2 * row + column) * channels
        return block[..., first : first + channels]

    # (1 for the block above or to the left, row or column in the block) of the three rows or columns.
    three = ((1, 1), (0, 0), (0, 1))
    window = [values(above, left, row, column) for above, row in three for left, column in three]
    return functools.reduce(jnp.maximum, window)
