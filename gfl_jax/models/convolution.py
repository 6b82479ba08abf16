"""The convolution and the batch norm of all networks here, with PyTorch's conventions."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.models.conv_gradient import Window, centered, convolve
from gfl_jax.models.row_pairs import pair_kernel
from gfl_jax.pixel_blocks import PIXELS, block_kernel
from gfl_jax.strips import Maps, count_strips, with_even_width, with_neighbors

Initializer = Callable[..., Any]

# PyTorch's usual initialization of convolutions before a ReLU (He et al. 2015).
KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """A square convolution on NHWC maps, whole or in strips, padded by half its kernel on all sides."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = KAIMING
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32
    # Whether x is in blocks of pixels. A 7x7 kernel with stride 2 then outputs blocks of 4x2 results.
    blocks: bool = False
    pairs: bool = False  # whether x has pairs of rows; with stride 1, the result has them too
    images: int | None = None  # number of images in the batch, if x is in strips; None: whole maps

    @nn.compact
    def __call__(
        self,
        x: Maps,
        factor: Float[Array, "features"] | None = None,
        shift: Float[Array, "features"] | None = None,
    ) -> Maps:
        """Applies the convolution. If given, `factor` multiplies the result and `shift` replaces the bias."""
        together = PIXELS if self.blocks else 2 if self.pairs else 1  # pixels or rows in a location of x
        channels = x.shape[-1] // together // self.groups
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        kernel = kernel if factor is None else kernel * factor
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else shift
        x = x.astype(self.dtype)
        strips = count_strips(x, self.images)
        window = centered(self.kernel_size, self.stride)
        if self.blocks:
            kernel, window = block_kernel(kernel), centered(3, 1)
        elif self.stride == 2 and self.kernel_size == 1 and (self.pairs or strips > 1):
            # Only every other row is used. Without the rest, joining strips is cheaper.
            x, window = x[..., :channels] if self.pairs else x[:, ::2], Window((1, 2), window.padding)
        elif self.pairs:
            kernel, padding = pair_kernel(kernel, self.stride)
            window = Window((1, self.stride), (padding, window.padding[1]))
        if bias is not None:
            bias = jnp.tile(bias, kernel.shape[-1] // self.features)
        if self.images is not None and strips > 1:
            stride = window.strides[1]
            x = with_even_width(x, self.images) if stride == 2 else x
            half, width = kernel.shape[1] // 2, x.shape[2]
            last = (width - 1) // stride * stride  # center of the last result of a strip
            x = with_neighbors(x, self.images, half, max(last + half - (width - 1), 0))
            window = Window(window.strides, (window.padding[0], (0, 0)))
        return convolve(x, kernel, bias, window, self.groups)


class BatchNorm(nn.Module):
    """Batch norm with running statistics like PyTorch's.

    Attributes:
      frozen: whether training also uses the running statistics, and does not change them.
      trained: whether scale and bias get gradients.
      momentum: weight of the new value in the running statistics.
      epsilon: added to the variance.
    """

    frozen: bool = False
    trained: bool = True
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, convolution: nn.Module, x: Maps, train: bool) -> Maps:
        """Normalizes the output of a convolution without bias over batch and space.

        Running statistics are folded into the kernel of the convolution. A norm with these is linear, so
        neither the forward nor the backward pass has to store or read the maps before it.
        """
        channels = (convolution.features,)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        if not self.trained:
            scale, bias = jax.lax.stop_gradient((scale, bias))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if not train or self.frozen:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            return convolution(x, factor, bias - running_mean.value * factor)
        y = convolution(x)
        # One more axis, because a convolution of blocks outputs blocks, with several results at a position.
        exact = y.astype(jnp.promote_types(y.dtype, jnp.float32)).reshape(*y.shape[:3], -1, *channels)
        mean = jnp.mean(exact, axis=(0, 1, 2, 3))
        var = jnp.mean(jnp.square(exact - mean), axis=(0, 1, 2, 3))
        if not self.is_initializing():
            # The running variance is unbiased; the variance that normalizes is biased.
            count = y.size / channels[0]
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (var * count / (count - 1) - running_var.value)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (exact * factor + (bias - mean * factor)).astype(y.dtype).reshape(y.shape)
