"""uint8 pictures to network inputs, on the device."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from gfl_jax import config


def normalize_images(
    images: UInt8[Array, "batch height width 3"],
    image_sizes: Int[Array, "batch 2"],
    normalization: config.Normalization,
    dtype: Any = jnp.float32,
) -> Float[Array, "batch height width 3"]:
    """Normalizes RGB pictures; what lies beyond an image's size becomes zero.

    Args:
      images: RGB pixels.
      image_sizes: (height, width) of each picture on the canvas.
      normalization: mean and std in the order of `channel_order`, the order of the result too.
      dtype: of the result; the arithmetic is in float32 or wider.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    x = images.astype(wide)
    x = x[..., ::-1] if normalization.channel_order == "bgr" else x
    x = (x - jnp.asarray(normalization.mean, wide)) / jnp.asarray(normalization.std, wide)
    rows = jnp.arange(x.shape[1])[None, :, None] < image_sizes[:, 0, None, None]
    columns = jnp.arange(x.shape[2])[None, None, :] < image_sizes[:, 1, None, None]
    return jnp.where((rows & columns)[..., None], x, 0).astype(dtype)
