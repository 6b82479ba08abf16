"""The dense head, which predicts class scores, box sides and a quality at each location."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from gfl_jax import config
from gfl_jax.axes.assigner import num_anchors
from gfl_jax.axes.box_representation import num_parameters
from gfl_jax.axes.quality import has_branch, make_class_logits
from gfl_jax.models.convolution import Conv
from gfl_jax.models.group_norm import GroupNorm
from gfl_jax.strips import Maps, whole
from gfl_jax.structures import HeadOutputs

NORMAL = nn.initializers.normal(0.01)
PRIOR = 0.01  # initial class scores (RetinaNet, sec. 4.1)


class DenseHead(nn.Module):
    """Two towers of convolutions, for classes and for boxes. All levels share their weights.

    A quality branch, if there is one, is one more convolution on one of the towers.
    """

    detector: config.Detector
    dtype: Any = jnp.float32
    images: int | None = None  # number of images in the batch, if maps are in strips; None: whole maps

    @nn.compact
    def __call__(self, levels: Sequence[Maps]) -> HeadOutputs:
        """Computes the outputs of all levels. They are whole maps, even if the levels are in strips."""
        detector, head = self.detector, self.detector.head
        anchors = num_anchors(detector.assigner)

        def conv(name: str, features: int, bias: float | None) -> Conv:
            start = nn.initializers.constant(bias or 0.0)
            fields = {"kernel_init": NORMAL, "bias_init": start, "dtype": self.dtype, "images": self.images}
            return Conv(features, 3, use_bias=bias is not None, **fields, name=name)

        def tower(name: str) -> list[tuple[nn.Module, nn.Module]]:
            bias = 0.0 if head.tower_bias else None
            return [
                (
                    conv(f"{name}_{i}", head.channels, bias),
                    GroupNorm(head.num_groups, self.images, name=f"{name}_{i}_gn"),
                )
                for i in range(head.num_convs)
            ]

        def climb(layers: list[tuple[nn.Module, nn.Module]], x: Array) -> Array:
            for convolution, norm in layers:
                x = nn.relu(norm(convolution(x)))
            return x

        class_tower, box_tower = tower("class_tower"), tower("box_tower")
        class_conv = conv("class_logits", anchors * detector.num_classes, -math.log((1 - PRIOR) / PRIOR))
        box_conv = conv("box", anchors * 4 * num_parameters(detector.box), 0.0)
        quality_conv = conv("quality", anchors, 0.0) if has_branch(detector.quality) else None
        with_quality = make_class_logits(detector.quality, num_parameters(detector.box), self.dtype)

        # Losses and decoding are in float32 or wider, whatever the type of the network's arithmetic.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        class_logits, box, quality = [], [], []
        for level, x in enumerate(levels):
            class_features, box_features = climb(class_tower, x), climb(box_tower, x)
            scale = self.param(f"scale_{level}", nn.initializers.ones, ())
            scores = whole(class_conv(class_features), self.images).astype(wide)
            box.append(whole(box_conv(box_features), self.images).astype(wide) * scale.astype(wide))
            class_logits.append(with_quality(scores, box[-1]))
            if quality_conv is not None:
                features = box_features if head.quality_tower == "box" else class_features
                quality.append(whole(quality_conv(features), self.images).astype(wide))
        return HeadOutputs(tuple(class_logits), tuple(box), tuple(quality))
