"""Converts uint8 images to network inputs, on the device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from gfl_jax import config
from gfl_jax.pixel_blocks import BLOCK_HEIGHT, BLOCK_WIDTH, in_blocks


def normalize_images(
    images: UInt8[Array, "batch h w c"],
    image_sizes: Int[Array, "batch 2"],
    normalization: config.Normalization,
    dtype: Any = jnp.float32,
) -> Float[Array, "batch h w c"]:
    """Normalizes RGB images; the canvas beyond an image becomes zero.

    Args:
      images: RGB pixels, or blocks of 8x4 pixels.
      image_sizes: (height, width) of each image on the canvas, in pixels.
      normalization: mean and std, and the channel order of these and of the result.
      dtype: of the result; the arithmetic is in float32 or wider.
    """
    with jax.named_scope("input"):
        height, width = (BLOCK_HEIGHT, BLOCK_WIDTH) if in_blocks(images) else (1, 1)
        # The row and the column in the block, and the color, of each channel.
        row, column, color = np.indices((height, width, 3)).reshape(3, -1)
        color = 2 - color if normalization.channel_order == "bgr" else color
        wide = jnp.promote_types(dtype, jnp.float32)
        x = images.astype(wide)
        x = x if normalization.channel_order == "rgb" else x[..., 3 * (width * row + column) + color]
        mean, std = (np.tile(values, height * width) for values in (normalization.mean, normalization.std))
        x = (x - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)
        rows = height * np.arange(x.shape[1])[:, None] + row < image_sizes[:, 0, None, None]
        columns = width * np.arange(x.shape[2])[:, None] + column < image_sizes[:, 1, None, None]
        return jnp.where(rows[:, :, None] & columns[:, None], x, 0).astype(dtype)
