"""Images as blocks of 4x4 pixels: the form in which a TPU reads them fastest.

A pixel has three channels, a TPU's registers have rows of 128. With the 48 channels of 16 pixels in one
place, the 7x7 convolution with stride 2 of a residual network's stem becomes one of 3x3, of the same
numbers; each place then holds a block of 2x2 of its results, and the max pooling takes them from there.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from gfl_jax.strips import with_neighbors

SIDE = 4  # pixels of a block
CHANNELS = SIDE * SIDE * 3  # its rows, their pixels, their colors


def to_blocks(images: Shaped[Any, "batch height width c"]) -> Shaped[Any, "batch height/4 width/4 16*c"]:
    """Images in blocks; height and width are multiples of 4. Numpy stays numpy."""
    batch, height, width, channels = images.shape
    blocks = images.reshape(batch, height // SIDE, SIDE, width // SIDE, SIDE, channels)
    return blocks.swapaxes(2, 3).reshape(batch, height // SIDE, width // SIDE, SIDE * SIDE * channels)


def to_pixels(images: Shaped[Any, "batch h w c"]) -> Shaped[Any, "batch height width 3"]:
    """Images in pixels, whether they come in blocks or not."""
    if not in_blocks(images):
        return images
    batch, rows, columns, _ = images.shape
    pixels = images.reshape(batch, rows, columns, SIDE, SIDE, 3).swapaxes(2, 3)
    return pixels.reshape(batch, SIDE * rows, SIDE * columns, 3)


def in_blocks(images: Shaped[Any, "batch h w c"]) -> bool:
    """Whether images come in blocks."""
    return bool(images.shape[-1] == CHANNELS)


def canvas_size(images: Shaped[Any, "batch h w c"]) -> tuple[int, int]:
    """(height, width) in pixels, whether images come in blocks or not."""
    side = SIDE if in_blocks(images) else 1
    return side * images.shape[1], side * images.shape[2]


def block_kernel(kernel: Float[Array, "7 7 in out"]) -> Float[Array, "3 3 16*in 4*out"]:
    """The kernel that does on blocks, with stride 1, what a 7x7 one does on pixels with stride 2.

    Its results come in blocks of 2x2: row by row, `out` channels each.
    """
    channels, features = kernel.shape[2:]
    # Of the 12 rows of three blocks, the result at 0 of a block looks at 1 to 7, the one at 1 at 3 to 9.
    padded = jnp.pad(kernel, ((3, 4), (3, 4), (0, 0), (0, 0)))
    moved = [padded[2 - 2 * i : 14 - 2 * i, 2 - 2 * j : 14 - 2 * j] for i in (0, 1) for j in (0, 1)]
    kernels = jnp.stack(moved, axis=-2).reshape(3, SIDE, 3, SIDE, channels, 4, features)
    return kernels.swapaxes(1, 2).reshape(3, 3, SIDE * SIDE * channels, 4 * features)


def max_pool_of_blocks(
    x: Float[Array, "batch h w 4*c"], images: int | None = None
) -> Float[Array, "batch h w c"]:
    """Max pooling over 3x3 with stride 2 and padding 1, of what is not negative, in blocks of 2x2.

    A block's place sees its own four numbers, and of the blocks above and on the left those next to it.

    Args:
      x: in blocks.
      images: in the batch, if they are in strips.
    """
    rows, columns, channels = x.shape[1], x.shape[2], x.shape[3] // 4
    # With zeros, which change no maximum; of whole images in one go, which TPUs fuse with what makes them.
    left = 1 if images is None else 0
    padded = x if images is None else with_neighbors(x, images, 1, 0)
    padded = jnp.pad(padded, ((0, 0), (1, 0), (left, 0), (0, 0)))

    def number(above: int, left: int, row: int, column: int) -> Array:
        block = padded[:, 1 - above : 1 - above + rows, 1 - left : 1 - left + columns]
        first = (2 * row + column) * channels
        return block[..., first : first + channels]

    # (block, row or column in it) of the three rows, and of the three columns.
    three = ((1, 1), (0, 0), (0, 1))
    numbers = [number(above, left, row, column) for above, row in three for left, column in three]
    return functools.reduce(jnp.maximum, numbers)
