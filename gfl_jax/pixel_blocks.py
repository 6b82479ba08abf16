"""Images as blocks of 2x2 pixels: the form in which a TPU reads them fastest.

A pixel has three channels, a TPU's register rows of 128. With the twelve channels of four pixels in one
place, a 7x7 convolution with stride 2 becomes one of 4x4 with stride 1, of the same numbers.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

CHANNELS = 12  # of a block: its rows, their pixels, their colors


def to_blocks(images: Shaped[Any, "batch height width 3"]) -> Shaped[Any, "batch height/2 width/2 12"]:
    """Images of even height and width in blocks; numpy stays numpy."""
    batch, height, width, colors = images.shape
    blocks = images.reshape(batch, height // 2, 2, width // 2, 2, colors)
    return blocks.swapaxes(2, 3).reshape(batch, height // 2, width // 2, 4 * colors)


def to_pixels(images: Shaped[Any, "batch h w c"]) -> Shaped[Any, "batch height width 3"]:
    """Images in pixels, whether they come in blocks or not."""
    if not in_blocks(images):
        return images
    batch, rows, columns, channels = images.shape
    pixels = images.reshape(batch, rows, columns, 2, 2, channels // 4).swapaxes(2, 3)
    return pixels.reshape(batch, 2 * rows, 2 * columns, channels // 4)


def in_blocks(images: Shaped[Any, "batch h w c"]) -> bool:
    """Whether images come in blocks."""
    return bool(images.shape[-1] == CHANNELS)


def canvas_size(images: Shaped[Any, "batch h w c"]) -> tuple[int, int]:
    """(height, width) in pixels, whether images come in blocks or not."""
    side = 2 if in_blocks(images) else 1
    return side * images.shape[1], side * images.shape[2]


def block_kernel(kernel: Float[Array, "size size in out"]) -> Float[Array, "half half 4*in out"]:
    """The kernel that with stride 1 does on blocks what one of odd size does on pixels with stride 2.

    Its size is half of the next even one, 4 for 7; it is padded by 2 before and by 1 after.
    """
    size, _, channels, features = kernel.shape
    half = (size + 1) // 2
    # Both look at the same pixels if the larger one has a row and a column of zeros in front.
    padded = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    blocks = padded.reshape(half, 2, half, 2, channels, features).swapaxes(1, 2)
    return blocks.reshape(half, half, 4 * channels, features)
