"""Deformable convolution, version 1 (Dai et al. 2017) and 2, with a mask (Zhu et al. 2019).

Each point of the kernel looks at a place of its own, moved by a learned offset, between pixels:
four of them are read and weighted. Sampling and the product with the kernel go point by point, in
a loop that is differentiated with its body computed anew. So what is kept beside the input, the
offsets and the result is the samples of one point, a k*k-th of all columns, in both directions.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.models.convolution import KAIMING, Conv, Initializer


def deform_conv2d(
    x: Float[Array, "batch height width in"],
    offsets: Float[Array, "batch h w offsets"],
    kernel: Float[Array, "size size in_per_group out"],
    mask: Float[Array, "batch h w masks"] | None = None,
    stride: int = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Float[Array, "batch h w out"]:
    """A square convolution that samples `x` at moved places, padded by half its kernel with zeros.

    Args:
      x: features.
      offsets: pixels; for each deform group and each point of the kernel, row by row, (y, x).
      kernel: weights.
      mask: factor of each deform group and point; None: 1.
      stride: of the places before they are moved.
      groups: of channels, as in any convolution.
      deform_groups: of channels with the same offsets.
    """
    batch, height, width, channels = x.shape
    _, rows, columns, _ = offsets.shape
    size, out = kernel.shape[0], kernel.shape[-1]
    # Channels with the same offsets become pictures of their own: (batch, deform group, pixel, channel).
    pixels = x.reshape(batch, height * width, deform_groups, -1).swapaxes(1, 2)
    grouped_kernel = kernel.reshape(size * size, channels // groups, groups, out // groups)
    # The loop runs along the first axis: points of the kernel.
    places = _places(offsets, stride, size, deform_groups)
    if mask is not None:
        mask = mask.reshape(batch, rows * columns, deform_groups, size * size).transpose(3, 0, 2, 1)

    @jax.checkpoint
    def one_point(place: Array, weights: Array, factor: Array | None) -> Array:
        samples = _sample(pixels, place, (height, width))
        samples = samples if factor is None else samples * factor[..., None]
        samples = samples.swapaxes(1, 2).reshape(batch, rows * columns, groups, -1)
        return jnp.einsum("bpgi,igo->bpgo", samples, weights)

    def add_point(total: Array, point: tuple[Array, Array, Array | None]) -> tuple[Array, None]:
        return total + one_point(*point), None

    zeros = jnp.zeros((batch, rows * columns, groups, out // groups), x.dtype)
    total, _ = jax.lax.scan(add_point, zeros, (places, grouped_kernel, mask))
    return total.reshape(batch, rows, columns, out)


def _places(
    offsets: Float[Array, "batch h w offsets"], stride: int, size: int, deform_groups: int
) -> Float[Array, "points batch deform_groups places 2"]:
    """Where each point of the kernel looks, as (y, x) in pixels of the input."""
    batch, rows, columns, _ = offsets.shape
    point = jnp.stack(jnp.mgrid[:size, :size], axis=-1).reshape(-1, 2) - size // 2
    start = jnp.stack(jnp.mgrid[:rows, :columns], axis=-1) * stride
    # In bfloat16 a place beyond pixel 256 would be rounded to a whole one.
    exact = offsets.astype(jnp.promote_types(offsets.dtype, jnp.float32))
    moved = exact.reshape(batch, rows, columns, deform_groups, size * size, 2)
    places = moved + (start[:, :, None, None] + point)
    return places.reshape(batch, rows * columns, deform_groups, size * size, 2).transpose(3, 0, 2, 1, 4)


def _sample(
    pixels: Float[Array, "batch deform_groups pixels channels"],
    places: Float[Array, "batch deform_groups places 2"],
    shape: tuple[int, int],
) -> Float[Array, "batch deform_groups places channels"]:
    """Bilinear interpolation; pixels beyond the border are zeros."""
    height, width = shape
    corner = jnp.floor(places)
    share = places - corner
    y, x = corner[..., 0].astype(jnp.int32), corner[..., 1].astype(jnp.int32)
    take = jax.vmap(jax.vmap(lambda rows, index: rows.at[index].get(mode="promise_in_bounds")))
    total = jnp.zeros((*places.shape[:-1], pixels.shape[-1]), pixels.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = jnp.abs(1 - dy - share[..., 0]) * jnp.abs(1 - dx - share[..., 1])
            inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
            index = jnp.clip(y + dy, 0, height - 1) * width + jnp.clip(x + dx, 0, width - 1)
            weight = jnp.where(inside, weight, 0).astype(pixels.dtype)
            total += take(pixels, index) * weight[..., None]
    return total


class DeformConv(nn.Module):
    """A deformable convolution whose offsets, and in version 2 masks, a convolution learns."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    deform_groups: int = 1
    version: int = 1
    kernel_init: Initializer = KAIMING
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch h w out"]:
        """Applies the convolution."""
        points = self.deform_groups * self.kernel_size**2
        zeros = nn.initializers.zeros
        conv_offset = Conv(
            points * (2 if self.version == 1 else 3),
            self.kernel_size,
            self.stride,
            kernel_init=zeros,
            dtype=self.dtype,
            name="conv_offset",
        )
        moves = conv_offset(x)
        mask = None if self.version == 1 else jax.nn.sigmoid(moves[..., 2 * points :])
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        convolve = functools.partial(
            deform_conv2d, stride=self.stride, groups=self.groups, deform_groups=self.deform_groups
        )
        return convolve(x.astype(self.dtype), moves[..., : 2 * points], kernel, mask)
