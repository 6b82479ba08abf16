"""Deformable convolution, version 1 (Dai et al. 2017) and version 2 with a mask (Zhu et al. 2019).

Each point of the kernel samples x at its own position, which a learned offset moves. A position lies between
pixels, so its four neighbors are read and weighted (bilinear interpolation).

There are two forms. The form by gathers, for CPUs and GPUs, is in this file. It samples and multiplies with
the kernel point by point, for a chunk of the positions at a time, in loops whose bodies are recomputed in the
backward pass. Besides the input, the offsets and the result, it stores only some arrays of samples of a
chunk. On a CPU, forward and backward, this is less memory than all sampled columns (k * k samples for each
position) would need. The gradient of the input is scattered: a CPU adds in a fixed order, and a GPU in any
order, unless it is set to be deterministic. The form by products, for TPUs, is in `deform_products`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gfl_jax.models.convolution import KAIMING, Conv, Initializer
from gfl_jax.models.deform_products import deform_by_products, gradient_by_products
from gfl_jax.strips import Maps, count_strips, split_again, whole

Form = Literal["gathers", "products"]

CPU_CHUNK = 1024  # positions whose samples stay in the cache of a processor
GPU_CHUNK = 32768  # positions, usually all of a map; 16 MB per image for 256 channels in bfloat16
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # the pixels around a position, as steps (y, x) from the first


def deform_conv2d(
    x: Float[Array, "batch height width in"],
    offsets: Float[Array, "batch h w offsets"],
    kernel: Float[Array, "size size in_per_group out"],
    mask: Float[Array, "batch h w masks"] | None = None,
    stride: int = 1,
    groups: int = 1,
    deform_groups: int = 1,
    form: Form | None = None,
) -> Float[Array, "batch h w out"]:
    """A square convolution that samples `x` at moved positions, with zero padding of half its kernel.

    The points of the kernel are summed in float32 or wider.

    Args:
      x: features.
      offsets: (y, x) in pixels, for each deform group and each point of the kernel, row by row.
      kernel: weights.
      mask: a factor for each deform group and point; None: 1.
      stride: of the positions before they are moved.
      groups: number of groups of channels, as in any convolution.
      deform_groups: number of groups of channels that share their offsets.
      form: which of the two forms to use; None: the form for the platform that this is compiled for.
    """
    batch, rows, columns, _ = offsets.shape
    size = kernel.shape[0]
    positions = _positions(offsets, stride, size, deform_groups)
    if mask is not None:
        mask = mask.reshape(batch, rows * columns, deform_groups, size * size).transpose(3, 0, 2, 1)
    return _apply(x, positions, mask, kernel, groups, rows, form).reshape(batch, rows, columns, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _apply(
    x: Float[Array, "batch height width in"],
    positions: Float[Array, "points batch deform_groups positions 2"],
    mask: Float[Array, "points batch deform_groups positions"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    groups: int,
    rows: int,
    form: Form | None,
) -> Float[Array, "batch positions out"]:
    """Samples at the positions, which form `rows` rows, and applies the kernel."""
    by_gathers = functools.partial(_by_gathers, groups=groups, rows=rows)
    by_products = functools.partial(deform_by_products, groups=groups)
    return _choose(form, by_gathers, by_products)(x, positions, mask, kernel)


def _choose(form: Form | None, by_gathers: Callable[..., Any], by_products: Callable[..., Any]) -> Any:
    """One of the two functions; `by_gathers` gets the chunk of its platform."""
    if form == "products":
        return by_products
    cpu, gpu = (functools.partial(by_gathers, chunk=chunk) for chunk in (CPU_CHUNK, GPU_CHUNK))
    tpu = by_products if form is None else gpu
    return functools.partial(jax.lax.platform_dependent, cpu=cpu, tpu=tpu, default=gpu)


def _forward(
    x: Array, positions: Array, mask: Array | None, kernel: Array, *static: Any
) -> tuple[Array, Any]:
    return _apply(x, positions, mask, kernel, *static), (x, positions, mask, kernel)


def _backward(groups: int, rows: int, form: Form | None, saved: Any, g: Array) -> Any:
    def by_gathers(
        x: Array, positions: Array, mask: Array | None, kernel: Array, g: Array, chunk: int
    ) -> Any:
        forward = functools.partial(_by_gathers, groups=groups, rows=rows, chunk=chunk)
        return jax.vjp(forward, x, positions, mask, kernel)[1](g)

    by_products = functools.partial(gradient_by_products, groups=groups)
    return _choose(form, by_gathers, by_products)(*saved, g)


_apply.defvjp(_forward, _backward)


def _by_gathers(
    x: Float[Array, "batch height width in"],
    positions: Float[Array, "points batch deform_groups positions 2"],
    mask: Float[Array, "points batch deform_groups positions"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    groups: int,
    rows: int,
    chunk: int,
) -> Float[Array, "batch positions out"]:
    """Like `_apply`. It processes as many rows at a time as have at most `chunk` positions."""
    batch, height, width, channels = x.shape
    deform_groups, columns = positions.shape[2], positions.shape[3] // rows
    size, out = kernel.shape[0], kernel.shape[-1]
    sum_type = jnp.promote_types(x.dtype, jnp.float32)
    # Channels that share their offsets become separate images: (batch, deform group, pixel, channel).
    pixels = x.reshape(batch, height * width, deform_groups, -1).swapaxes(1, 2)
    # A matrix for each point and group, laid out only once.
    matrices = kernel.reshape(size * size, channels // groups, groups, out // groups).swapaxes(1, 2)

    @jax.checkpoint
    def one_point(position: Array, factor: Array | None, weights: Array) -> Array:
        samples = _sample(pixels, position, (height, width))
        samples = samples if factor is None else samples * factor[..., None]
        samples = samples.swapaxes(1, 2).reshape(batch, position.shape[-2], channels)
        if groups == 1:
            return jnp.matmul(samples, weights[0], preferred_element_type=sum_type)
        samples = samples.reshape(batch, -1, groups, channels // groups).swapaxes(1, 2)
        products = jnp.matmul(samples, weights, preferred_element_type=sum_type)
        return products.swapaxes(1, 2).reshape(batch, -1, out)

    def all_points(part: tuple[Array, Array | None]) -> Array:
        def add_point(total: Array, point: tuple[Array, Array | None, Array]) -> tuple[Array, None]:
            return total + one_point(*point), None

        zeros = jnp.zeros((batch, part[0].shape[-2], out), sum_type)
        return jax.lax.scan(add_point, zeros, (*part, matrices))[0].astype(x.dtype)

    def split(a: Array) -> Array:
        return jnp.moveaxis(
            a.reshape(*a.shape[:3], _num_chunks(rows, columns, chunk), -1, *a.shape[4:]), 3, 0
        )

    # The first axis is chunks of positions; inside a chunk it is points of the kernel.
    chunks = jax.lax.map(all_points, jax.tree.map(split, (positions, mask)))
    return jnp.moveaxis(chunks, 0, 1).reshape(batch, rows * columns, out)


def _num_chunks(rows: int, columns: int, chunk: int) -> int:
    """The number of equal parts into which the rows are divided to get at most `chunk` positions in each."""
    return next((n for n in range(1, rows) if rows % n == 0 and rows // n * columns <= chunk), rows)


def _positions(
    offsets: Float[Array, "batch h w offsets"], stride: int, size: int, deform_groups: int
) -> Float[Array, "points batch deform_groups positions 2"]:
    """The positions at which each point of the kernel samples, as (y, x) in pixels of the input."""
    batch, rows, columns, _ = offsets.shape
    point = jnp.stack(jnp.mgrid[:size, :size], axis=-1).reshape(-1, 2) - size // 2
    start = jnp.stack(jnp.mgrid[:rows, :columns], axis=-1) * stride
    # In bfloat16 a position beyond pixel 256 would be rounded to an integer.
    exact = offsets.astype(jnp.promote_types(offsets.dtype, jnp.float32))
    moved = exact.reshape(batch, rows, columns, deform_groups, size * size, 2)
    positions = moved + (start[:, :, None, None] + point)
    return positions.reshape(batch, rows * columns, deform_groups, size * size, 2).transpose(3, 0, 2, 1, 4)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sample(
    pixels: Float[Array, "batch deform_groups pixels channels"],
    positions: Float[Array, "batch deform_groups positions 2"],
    shape: tuple[int, int],
) -> Float[Array, "batch deform_groups positions channels"]:
    """Samples by bilinear interpolation; pixels beyond the border are zeros."""
    total = jnp.zeros((*positions.shape[:-1], pixels.shape[-1]), pixels.dtype)
    for index, weight in zip(
        _corner_indices(positions, shape), _corner_weights(positions, shape), strict=True
    ):
        total += _gather(pixels, index) * weight[..., None].astype(pixels.dtype)
    return total


def _sample_forward(pixels: Array, positions: Array, shape: tuple[int, int]) -> tuple[Array, Any]:
    return _sample(pixels, positions, shape), (pixels, positions)


def _sample_backward(shape: tuple[int, int], saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Processes one corner at a time and reads the pixels again, to keep few arrays of samples in memory."""
    pixels, positions = jax.lax.optimization_barrier(saved)
    weights, pull_back = jax.vjp(functools.partial(_corner_weights, shape=shape), positions)
    pixel_gradient, weight_gradients = jnp.zeros_like(pixels), []
    ones = jnp.ones((g.shape[-1], 1), g.dtype)  # on CPUs this product is ten times as fast as a sum
    for index, weight in zip(_corner_indices(positions, shape), weights, strict=True):
        by_position = jnp.matmul(_gather(pixels, index) * g, ones, precision="highest")[..., 0]
        weight_gradients.append(by_position.astype(weight.dtype))
        pixel_gradient = _scatter_add(pixel_gradient, index, g * weight[..., None].astype(g.dtype))
    return pixel_gradient, *pull_back(jnp.stack(weight_gradients))


_sample.defvjp(_sample_forward, _sample_backward)


def _corner_weights(positions: Float[Array, "*n 2"], shape: tuple[int, int]) -> Float[Array, "4 *n"]:
    """The weights of the four pixels around each position; pixels beyond the border have weight 0."""
    corner = jax.lax.stop_gradient(jnp.floor(positions))
    share = positions - corner
    weights = []
    for move in CORNERS:
        near = jnp.where(np.array(move), share, 1 - share)
        inside = (corner + np.array(move) >= 0) & (corner + np.array(move) < np.array(shape))
        weights.append(jnp.where(jnp.all(inside, axis=-1), near[..., 0] * near[..., 1], 0))
    return jnp.stack(weights)


def _corner_indices(positions: Float[Array, "*n 2"], shape: tuple[int, int]) -> Int[Array, "4 *n"]:
    """The indices of these pixels, row by row. Beyond the border it is the index of another pixel."""
    last = np.array(shape) - 1
    # Clipped before the conversion to integers, because a position may be anywhere.
    corners = [jnp.clip(jnp.floor(positions) + np.array(move), 0, last).astype(jnp.int32) for move in CORNERS]
    return jnp.stack([corner[..., 0] * shape[1] + corner[..., 1] for corner in corners])


def _for_each_image(function: Callable[..., Array]) -> Callable[..., Array]:
    """Maps a function over the batch and the deform groups, so the batch can be split over devices."""
    return jax.vmap(jax.vmap(function))


_gather = _for_each_image(lambda rows, index: rows.at[index].get(mode="promise_in_bounds"))
_scatter_add = _for_each_image(lambda rows, index, x: rows.at[index].add(x, mode="promise_in_bounds"))


class DeformConv(nn.Module):
    """A deformable convolution. Another convolution computes its offsets, and in version 2 its mask."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    deform_groups: int = 1
    version: int = 1
    kernel_init: Initializer = KAIMING
    dtype: Any = jnp.float32
    images: int | None = None  # number of images in the batch, if x is in strips; None: whole maps

    @nn.compact
    def __call__(
        self,
        x: Maps,
        factor: Float[Array, "features"] | None = None,
        shift: Float[Array, "features"] | None = None,
    ) -> Maps:
        """Applies the convolution. If given, `factor` multiplies the result and `shift` is added to it."""
        strips = count_strips(x, self.images)
        x = whole(x, self.images)  # a sample may lie in any strip
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
        kernel = self.param("kernel", self.kernel_init, shape)
        kernel = (kernel if factor is None else kernel * factor).astype(self.dtype)
        offsets = moves[..., : 2 * points]
        y = deform_conv2d(
            x.astype(self.dtype), offsets, kernel, mask, self.stride, self.groups, self.deform_groups
        )
        y = y if shift is None else y + shift.astype(y.dtype)
        return split_again(y, self.images, math.gcd(strips, y.shape[2]))
