"""A convolution whose gradients of kernel and bias are exact, and fast on CPUs too.

The gradients of kernel and bias are sums over all positions of a batch. With bfloat16 maps they are returned
in float32, the type of the parameters. So they are not rounded, and if several levels share a kernel, devices
sum one array and not one for each level.

XLA computes the gradient of a kernel as a convolution whose window is as large as the feature map, on copies
in a special layout. On a CPU this takes two to ten times as long as the forward pass. The code here takes
about as long as the forward pass. Accelerators keep XLA's own gradients; TPUs join small groups.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gfl_jax.models.joined_groups import join_groups, num_joined

# Inside `with own_kernel_gradient(False):` all gradients are XLA's, for comparisons.
own_kernel_gradient = jax.make_user_context(True)

# `with in_a_loop(True):` belongs around the body of a scan. On CPUs XLA converts convolutions to the plain
# order of axes only outside of loops. Inside, those of gradients would take ten to seventy times as long.
in_a_loop = jax.make_user_context(False)


class Window(NamedTuple):
    """How a kernel moves over a map: by rows, then by columns."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # before and after the map


def centered(size: int, stride: int) -> Window:
    """The window of a square kernel, padded by half the kernel on all sides."""
    return Window((stride, stride), ((size // 2, size // 2), (size // 2, size // 2)))


def conv2d(
    x: Float[Array, "batch height width in"],
    kernel: Float[Array, "size size in_per_group out"],
    bias: Float[Array, "out"] | None,
    stride: int,
    groups: int,
) -> Float[Array, "batch h w out"]:
    """A square convolution in the type of `x`, padded by half its kernel on all sides."""
    return convolve(x, kernel, bias, centered(kernel.shape[0], stride), groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def convolve(
    x: Float[Array, "batch height width in"],
    kernel: Float[Array, "rows columns in_per_group out"],
    bias: Float[Array, "out"] | None,
    window: Window,
    groups: int,
) -> Float[Array, "batch h w out"]:
    """A convolution in the type of `x`.

    The padding is explicit, because with stride 2 XLA's "SAME" pads less on the left and at the top.
    Kernel and bias may have a wider type than `x`; their gradients have the same types as they.
    """
    y = _convolve(x, kernel.astype(x.dtype), window, groups)
    return y if bias is None else y + bias.astype(x.dtype)


def _convolve(x: Array, kernel: Array, window: Window, groups: int) -> Array:
    joined = num_joined(x.shape[-1], groups)
    by_groups = functools.partial(_convolve_groups, window=window)
    if joined == groups:
        return by_groups(x, kernel, groups=groups)
    return lax.platform_dependent(
        x,
        kernel,
        tpu=lambda x, kernel: by_groups(x, join_groups(kernel, groups), groups=joined),
        default=lambda x, kernel: by_groups(x, kernel, groups=groups),
    )


def _convolve_groups(x: Array, kernel: Array, window: Window, groups: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=window.strides,
        padding=window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


_Saved = tuple[Array, Array, Array | None]


def _forward(x: Array, kernel: Array, bias: Array | None, *static: Any) -> tuple[Array, _Saved]:
    return convolve(x, kernel, bias, *static), (x, kernel, bias)


def _backward(window: Window, groups: int, saved: _Saved, g: Array) -> tuple[Array, Array, Array | None]:
    """The gradients of x, of the kernel and of the bias; `g` is the gradient of the result."""
    x, kernel, bias = saved
    (size, columns), stride = kernel.shape[:2], window.strides[0]
    square = groups == 1 and window == centered(size, stride)
    in_loop = in_a_loop.value and square

    def x_by_xla(kernel: Array, g: Array) -> Array:
        return jax.linear_transpose(lambda x: _convolve(x, kernel, window, groups), x)(g)[0]

    plain = functools.partial(_plain_x_gradient, stride=stride, shape=x.shape)
    narrow = kernel.astype(x.dtype)
    x_gradient = (
        lax.platform_dependent(narrow, g, cpu=plain, default=x_by_xla) if in_loop else x_by_xla(narrow, g)
    )

    by_xla = functools.partial(_kernel_gradient_by_xla, size=(size, columns), window=window, groups=groups)
    own: Callable[[Array, Array], Array] | None = None
    if size == 1 and square:
        own = functools.partial(_kernel_gradient_1x1, stride=stride)
    elif stride == 1 and square and x.shape[-1] >= 128 and x.dtype != jnp.float64:
        own = functools.partial(_kernel_gradient, size=size)
    elif in_loop:
        own = functools.partial(_plain_kernel_gradient, stride=stride, size=size)
    # else: stride 2 gains nothing, float64 would be slower, grouped convolutions were not tried, and strips
    # and pairs of rows are only for TPUs.
    if own is None or not own_kernel_gradient.value:
        kernel_gradient = by_xla(x, g)
    else:
        kernel_gradient = lax.platform_dependent(x, g, cpu=own, default=by_xla)

    bias_gradient = None if bias is None else jnp.sum(g, (0, 1, 2), dtype=bias.dtype)
    return x_gradient, kernel_gradient.astype(kernel.dtype), bias_gradient


convolve.defvjp(_forward, _backward)


def _wide(x: Array) -> Any:
    """The type in which products of x are summed: float32 or wider."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _kernel_gradient_by_xla(
    x: Float[Array, "batch height width in"],
    g: Float[Array, "batch h w out"],
    size: tuple[int, int],
    window: Window,
    groups: int,
) -> Float[Array, "rows columns in_per_group out"]:
    """XLA's gradient of the kernel. On a TPU it is selected from the gradient of joined groups."""
    by_groups = functools.partial(_kernel_gradient_of_groups, size=size, window=window)
    joined = num_joined(x.shape[-1], groups)
    if joined == groups:
        return by_groups(x, g, groups=groups)
    shape = jax.ShapeDtypeStruct((*size, x.shape[-1] // groups, g.shape[-1]), _wide(x))
    own = jax.linear_transpose(lambda kernel: join_groups(kernel, groups), shape)
    return lax.platform_dependent(
        x,
        g,
        tpu=lambda x, g: own(by_groups(x, g, groups=joined))[0],
        default=functools.partial(by_groups, groups=groups),
    )


def _kernel_gradient_of_groups(
    x: Float[Array, "batch height width in"],
    g: Float[Array, "batch h w out"],
    size: tuple[int, int],
    window: Window,
    groups: int,
) -> Float[Array, "rows columns in_per_group out"]:
    """The gradient as jax computes it: it sums over the batch like over channels, and the window is g."""
    padding = [
        (before, (steps - 1) * stride + taps - length - before)
        for (before, _), length, steps, stride, taps in zip(
            window.padding, x.shape[1:3], g.shape[1:3], window.strides, size, strict=True
        )
    ]
    return lax.conv_general_dilated(
        x,
        g,
        window_strides=(1, 1),
        padding=padding,
        rhs_dilation=window.strides,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=groups,
        preferred_element_type=_wide(x),
    )


def _kernel_gradient_1x1(
    x: Float[Array, "batch height width in"], g: Float[Array, "batch h w out"], stride: int
) -> Float[Array, "1 1 in out"]:
    """The gradient as one matrix product, summed over all positions: 2 to 10 times as fast as XLA's."""
    rows = x[:, ::stride, ::stride].reshape(-1, x.shape[-1])
    products = jnp.matmul(rows.T, g.reshape(-1, g.shape[-1]), preferred_element_type=_wide(x))
    return products[None, None]


def _kernel_gradient(
    x: Float[Array, "batch height width in"], g: Float[Array, "batch h w out"], size: int
) -> Float[Array, "size size in out"]:
    """The gradient as a one-dimensional convolution for each column of the kernel: twice as fast as XLA's.

    The images of these convolutions are the input channels. Their rows are the rows of x, and the features
    of a row are all of its pixels in the whole batch. The window is g in its full height, shifted sideways by
    the column. It takes as many vertical positions as the kernel has rows. So the sums run over contiguous
    memory.
    """
    batch, height, width, _ = x.shape
    half = size // 2
    margin = size - 1 - half
    channels = x.transpose(3, 1, 0, 2).reshape(-1, height, batch * width)
    padded = jnp.pad(g, ((0, 0), (0, 0), (margin, margin), (0, 0)))

    def column(j: int) -> Float[Array, "in size out"]:
        moved = lax.slice_in_dim(padded, size - 1 - j, size - 1 - j + width, axis=2)
        window = moved.transpose(1, 0, 2, 3).reshape(g.shape[1], batch * width, -1)
        return lax.conv_general_dilated(
            channels,
            window,
            (1,),
            [(half, half)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            preferred_element_type=_wide(x),
        )

    return jnp.stack([column(j) for j in range(size)]).transpose(2, 0, 1, 3)


def _plain_x_gradient(
    kernel: Float[Array, "size size in out"],
    g: Float[Array, "batch h w out"],
    stride: int,
    shape: tuple[int, ...],
) -> Float[Array, "batch height width in"]:
    """XLA's own gradient of x, which has the shape `shape`, in the plain order of axes."""
    size = kernel.shape[0]
    before = size - 1 - size // 2
    padding = [
        (before, length + size // 2 - 1 - (steps - 1) * stride)
        for length, steps in zip(shape[1:3], g.shape[1:3], strict=True)
    ]
    turned = lax.rev(kernel, (0, 1)).transpose(0, 1, 3, 2)
    order = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        g, turned, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=order
    )


def _plain_kernel_gradient(
    x: Float[Array, "batch height width in"], g: Float[Array, "batch h w out"], stride: int, size: int
) -> Float[Array, "size size in out"]:
    """XLA's own gradient of the kernel in the plain order of axes: the images are the input channels."""
    order = ("NHWC", "HWIO", "NHWC")
    sums = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        [(size // 2, size // 2)] * 2,
        rhs_dilation=(stride, stride),
        dimension_numbers=order,
        preferred_element_type=_wide(x),
    )
    return sums[:, :size, :size].transpose(1, 2, 0, 3)
