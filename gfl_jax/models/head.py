"""The dense head: at each location class scores and the parameters of the four box sides."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax import config
from gfl_jax.models.convolution import Conv
from gfl_jax.structures import HeadOutputs

NORMAL = nn.initializers.normal(0.01)
PRIOR = 0.01  # every class score at the start (RetinaNet, sec. 4.1)


class DenseHead(nn.Module):
    """Two towers, for classes and for boxes, whose weights all levels share."""

    detector: config.Detector
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[Float[Array, "batch h w c"]]) -> HeadOutputs:
        """Computes the outputs of all levels."""
        detector, head = self.detector, self.detector.head

        def tower(name: str) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for i in range(head.num_convs):
                layers.append(
                    Conv(
                        head.channels,
                        3,
                        use_bias=False,
                        kernel_init=NORMAL,
                        dtype=self.dtype,
                        name=f"{name}_{i}",
                    )
                )
                layers.append(
                    nn.GroupNorm(
                        head.num_groups,
                        epsilon=1e-5,
                        use_fast_variance=False,
                        dtype=self.dtype,
                        name=f"{name}_{i}_gn",
                    )
                )
            return layers

        def run(layers: list[nn.Module], x: Array) -> Array:
            for conv, norm in zip(layers[::2], layers[1::2], strict=True):
                x = nn.relu(norm(conv(x)))
            return x

        class_tower, box_tower = tower("class_tower"), tower("box_tower")
        class_bias = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        class_conv = Conv(
            detector.num_classes,
            3,
            kernel_init=NORMAL,
            bias_init=class_bias,
            dtype=self.dtype,
            name="class_logits",
        )
        box_conv = Conv(4 * (detector.box.reg_max + 1), 3, kernel_init=NORMAL, dtype=self.dtype, name="box")

        class_logits, box = [], []
        for level, x in enumerate(levels):
            scale = self.param(f"scale_{level}", nn.initializers.ones, ())
            # Losses and decoding are in float32 at least, whatever the network computes in.
            wide = jnp.promote_types(self.dtype, jnp.float32)
            class_logits.append(class_conv(run(class_tower, x)).astype(wide))
            box.append(box_conv(run(box_tower, x)).astype(wide) * scale.astype(wide))
        return HeadOutputs(tuple(class_logits), tuple(box))
