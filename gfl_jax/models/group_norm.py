"""Group norm (Wu and He 2018) in one pass over the maps, over whole images even if they are in strips."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.strips import Maps


class GroupNorm(nn.Module):
    """Normalizes groups of channels of each image.

    Attributes:
      groups: number of groups of channels.
      images: number of images in the batch, if maps are in strips; None: whole maps.
      epsilon: added to the variance.
    """

    groups: int
    images: int | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Applies the norm. Sums are in float32 or wider, over each channel first."""
        batch, rows, columns, channels = x.shape
        images = self.images or batch
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        count = (batch // images) * rows * columns * (channels // self.groups)

        def mean_of(values: Maps) -> Float[Array, "images groups"]:
            of_channels = jnp.sum(values, axis=(1, 2)).reshape(
                images, -1, self.groups, channels // self.groups
            )
            return jnp.sum(of_channels, axis=(1, 3)) / count

        def everywhere(of_groups: Float[Array, "images groups"]) -> Float[Array, "batch 1 1 channels"]:
            of_channels = jnp.repeat(of_groups, channels // self.groups, axis=1)
            return jnp.repeat(of_channels, batch // images, axis=0)[:, None, None]

        mean = mean_of(exact)
        if x.dtype == jnp.bfloat16:
            # E[x^2] - E[x]^2 is precise enough for x with the eight bits of bfloat16.
            variance = jnp.maximum(mean_of(jnp.square(exact)) - jnp.square(mean), 0)
        else:
            variance = mean_of(jnp.square(exact - everywhere(mean)))
        deviation = jax.lax.rsqrt(variance + self.epsilon)
        factor = everywhere(deviation) * scale
        return (exact * factor + (bias - everywhere(mean) * factor)).astype(x.dtype)
