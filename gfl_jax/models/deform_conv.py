"""Deformable convolution, version 1 (Dai et al. 2017) and 2, with a mask (Zhu et al. 2019).

Each point of the kernel looks at a place of its own, moved by a learned offset, between pixels:
four of them are read and weighted. There are two forms. By gathers, for CPUs and GPUs, is here:
sampling and the product with the kernel go point by point, for a chunk of the places at a time,
in loops that are differentiated with their body computed anew. So little is kept beside the input,
the offsets and the result: some arrays of samples of a chunk, on a CPU less than all sampled columns
(k * k samples for each place) would take, forward and backward. The gradient of the input is
scattered: a CPU adds in order, a GPU in any, unless it is told otherwise. By products, for TPUs, is
`deform_products`.
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

CPU_CHUNK = 1024  # places; the samples of so many stay in a processor's cache
GPU_CHUNK = 32768  # places, mostly all there are; 16 MB an image for 256 channels in bfloat16
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # the pixels around a place, as moves (y, x) from the first


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
    """A square convolution that samples `x` at moved places, padded by half its kernel with zeros.

    The points of the kernel are summed in float32 or more.

    Args:
      x: features.
      offsets: pixels; for each deform group and each point of the kernel, row by row, (y, x).
      kernel: weights.
      mask: factor of each deform group and point; None: 1.
      stride: of the places before they are moved.
      groups: of channels, as in any convolution.
      deform_groups: of channels with the same offsets.
      form: None: the one for the platform that this is compiled for.
    """
    batch, rows, columns, _ = offsets.shape
    size = kernel.shape[0]
    places = _places(offsets, stride, size, deform_groups)
    if mask is not None:
        mask = mask.reshape(batch, rows * columns, deform_groups, size * size).transpose(3, 0, 2, 1)
    return _apply(x, places, mask, kernel, groups, rows, form).reshape(batch, rows, columns, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _apply(
    x: Float[Array, "batch height width in"],
    places: Float[Array, "points batch deform_groups places 2"],
    mask: Float[Array, "points batch deform_groups places"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    groups: int,
    rows: int,
    form: Form | None,
) -> Float[Array, "batch places out"]:
    """Samples at the places, which are in so many rows, and applies the kernel."""
    by_gathers = functools.partial(_by_gathers, groups=groups, rows=rows)
    by_products = functools.partial(deform_by_products, groups=groups)
    return _choose(form, by_gathers, by_products)(x, places, mask, kernel)


def _choose(form: Form | None, by_gathers: Callable[..., Any], by_products: Callable[..., Any]) -> Any:
    """One of the two, the first with the chunk of its platform."""
    if form == "products":
        return by_products
    cpu, gpu = (functools.partial(by_gathers, chunk=chunk) for chunk in (CPU_CHUNK, GPU_CHUNK))
    tpu = by_products if form is None else gpu
    return functools.partial(jax.lax.platform_dependent, cpu=cpu, tpu=tpu, default=gpu)


def _forward(x: Array, places: Array, mask: Array | None, kernel: Array, *static: Any) -> tuple[Array, Any]:
    return _apply(x, places, mask, kernel, *static), (x, places, mask, kernel)


def _backward(groups: int, rows: int, form: Form | None, saved: Any, g: Array) -> Any:
    def by_gathers(x: Array, places: Array, mask: Array | None, kernel: Array, g: Array, chunk: int) -> Any:
        forward = functools.partial(_by_gathers, groups=groups, rows=rows, chunk=chunk)
        return jax.vjp(forward, x, places, mask, kernel)[1](g)

    by_products = functools.partial(gradient_by_products, groups=groups)
    return _choose(form, by_gathers, by_products)(*saved, g)


_apply.defvjp(_forward, _backward)


def _by_gathers(
    x: Float[Array, "batch height width in"],
    places: Float[Array, "points batch deform_groups places 2"],
    mask: Float[Array, "points batch deform_groups places"] | None,
    kernel: Float[Array, "size size in_per_group out"],
    groups: int,
    rows: int,
    chunk: int,
) -> Float[Array, "batch places out"]:
    """As `_apply`; of rows as many at a time as have `chunk` places or less."""
    batch, height, width, channels = x.shape
    deform_groups, columns = places.shape[2], places.shape[3] // rows
    size, out = kernel.shape[0], kernel.shape[-1]
    sum_type = jnp.promote_types(x.dtype, jnp.float32)
    # Channels with the same offsets become pictures of their own: (batch, deform group, pixel, channel).
    pixels = x.reshape(batch, height * width, deform_groups, -1).swapaxes(1, 2)
    # Matrices for each point and group, laid out once.
    matrices = kernel.reshape(size * size, channels // groups, groups, out // groups).swapaxes(1, 2)

    @jax.checkpoint
    def one_point(place: Array, factor: Array | None, weights: Array) -> Array:
        samples = _sample(pixels, place, (height, width))
        samples = samples if factor is None else samples * factor[..., None]
        samples = samples.swapaxes(1, 2).reshape(batch, place.shape[-2], channels)
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

    # First axis: chunks of the places, and then points of the kernel.
    chunks = jax.lax.map(all_points, jax.tree.map(split, (places, mask)))
    return jnp.moveaxis(chunks, 0, 1).reshape(batch, rows * columns, out)


def _num_chunks(rows: int, columns: int, chunk: int) -> int:
    """Into how many parts the rows are divided so that one has `chunk` places or less."""
    return next((n for n in range(1, rows) if rows % n == 0 and rows // n * columns <= chunk), rows)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sample(
    pixels: Float[Array, "batch deform_groups pixels channels"],
    places: Float[Array, "batch deform_groups places 2"],
    shape: tuple[int, int],
) -> Float[Array, "batch deform_groups places channels"]:
    """Bilinear interpolation; pixels beyond the border are zeros."""
    total = jnp.zeros((*places.shape[:-1], pixels.shape[-1]), pixels.dtype)
    for index, weight in zip(_corner_indices(places, shape), _corner_weights(places, shape), strict=True):
        total += _take(pixels, index) * weight[..., None].astype(pixels.dtype)
    return total


def _sample_forward(pixels: Array, places: Array, shape: tuple[int, int]) -> tuple[Array, Any]:
    return _sample(pixels, places, shape), (pixels, places)


def _sample_backward(shape: tuple[int, int], saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """One corner after the other, reading the pixels again, so that few arrays of samples live at once."""
    pixels, places = jax.lax.optimization_barrier(saved)
    weights, pull_back = jax.vjp(functools.partial(_corner_weights, shape=shape), places)
    pixel_gradient, weight_gradients = jnp.zeros_like(pixels), []
    ones = jnp.ones((g.shape[-1], 1), g.dtype)  # on CPUs a product with them is ten times as fast as a sum
    for index, weight in zip(_corner_indices(places, shape), weights, strict=True):
        by_place = jnp.matmul(_take(pixels, index) * g, ones, precision="highest")[..., 0]
        weight_gradients.append(by_place.astype(weight.dtype))
        pixel_gradient = _add(pixel_gradient, index, g * weight[..., None].astype(g.dtype))
    return pixel_gradient, *pull_back(jnp.stack(weight_gradients))


_sample.defvjp(_sample_forward, _sample_backward)


def _corner_weights(places: Float[Array, "*n 2"], shape: tuple[int, int]) -> Float[Array, "4 *n"]:
    """How much each of the four pixels around a place counts; those beyond the border do not."""
    corner = jax.lax.stop_gradient(jnp.floor(places))
    share = places - corner
    weights = []
    for move in CORNERS:
        near = jnp.where(np.array(move), share, 1 - share)
        inside = (corner + np.array(move) >= 0) & (corner + np.array(move) < np.array(shape))
        weights.append(jnp.where(jnp.all(inside, axis=-1), near[..., 0] * near[..., 1], 0))
    return jnp.stack(weights)


def _corner_indices(places: Float[Array, "*n 2"], shape: tuple[int, int]) -> Int[Array, "4 *n"]:
    """Which pixels these are, row by row; any pixel where it is beyond the border."""
    last = np.array(shape) - 1
    # Clipped before they become integers: a place may be anywhere.
    corners = [jnp.clip(jnp.floor(places) + np.array(move), 0, last).astype(jnp.int32) for move in CORNERS]
    return jnp.stack([corner[..., 0] * shape[1] + corner[..., 1] for corner in corners])


def _for_each_picture(function: Callable[..., Array]) -> Callable[..., Array]:
    """Over the batch and the deform groups; so the batch can be split over devices."""
    return jax.vmap(jax.vmap(function))


_take = _for_each_picture(lambda rows, index: rows.at[index].get(mode="promise_in_bounds"))
_add = _for_each_picture(lambda rows, index, x: rows.at[index].add(x, mode="promise_in_bounds"))


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
    images: int | None = None  # in the batch, if x is in strips

    @nn.compact
    def __call__(
        self,
        x: Maps,
        factor: Float[Array, "features"] | None = None,
        shift: Float[Array, "features"] | None = None,
    ) -> Maps:
        """Applies the convolution; times `factor`, plus `shift`, if they are given."""
        strips = count_strips(x, self.images)
        x = whole(x, self.images)  # samples may lie in any strip
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
