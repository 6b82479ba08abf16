"""Residual networks (He et al. 2016): ResNet, ResNeXt, variants with deformable convolutions, small ones."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from gfl_jax import config
from gfl_jax.models.convolution import BatchNorm, Conv
from gfl_jax.models.deform_conv import DeformConv
from gfl_jax.models.row_pairs import split_pairs
from gfl_jax.pixel_blocks import in_blocks, max_pool_of_blocks, to_blocks
from gfl_jax.strips import Maps

EXPANSION = {"basic": 1, "bottleneck": 4}


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + branch(x)), where the branch is 3x3, 3x3 (basic) or 1x1, 3x3, 1x1 (bottleneck).

    The 3x3 convolution of a bottleneck may have groups (ResNeXt, Xie et al. 2017) and may be deformable.
    """

    backbone: config.Backbone
    width: int
    stride: int
    dtype: Any
    deformable: bool = False
    pairs: bool = False  # whether x has pairs of rows; with stride 1, the result has them too
    images: int | None = None  # number of images in the batch, if x is in strips; None: whole maps

    @nn.compact
    def __call__(self, x: Maps, train: bool) -> Maps:
        """Applies the block."""
        out_channels = self.width * EXPANSION[self.backbone.block]
        stride_in_1x1 = self.backbone.style == "caffe"
        groups = self.backbone.groups
        shared: dict[str, Any] = {"dtype": self.dtype, "images": self.images}
        fields = {"use_bias": False, **shared}

        def norm(conv: nn.Module, bn: str, x: Array) -> Array:
            return batch_norm(self.backbone, bn)(conv, x, train)

        def conv_norm(
            x: Array, name: str, bn: str, features: int, kernel_size: int, stride: int, pairs: bool
        ) -> Array:
            return norm(Conv(features, kernel_size, stride, pairs=pairs, **fields, name=name), bn, x)

        pairs_after = self.pairs and self.stride == 1
        if self.backbone.block == "basic":
            y = nn.relu(conv_norm(x, "conv1", "bn1", self.width, 3, self.stride, self.pairs))
            y = conv_norm(y, "conv2", "bn2", out_channels, 3, 1, pairs_after)
        else:
            first, second = (self.stride, 1) if stride_in_1x1 else (1, self.stride)
            pairs_between = self.pairs and first == 1
            middle = self.width * self.backbone.group_width // 64 * groups
            y = nn.relu(conv_norm(x, "conv1", "bn1", middle, 1, first, self.pairs))
            if self.deformable:
                version, deform_groups = self.backbone.deform_version, self.backbone.deform_groups
                conv2: nn.Module = DeformConv(
                    middle, 3, second, groups, deform_groups, version, **shared, name="conv2"
                )
            else:
                conv2 = Conv(middle, 3, second, groups, pairs=pairs_between, **fields, name="conv2")
            y = nn.relu(norm(conv2, "bn2", y))
            y = conv_norm(y, "conv3", "bn3", out_channels, 1, 1, pairs_after)
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = conv_norm(x, "downsample_conv", "downsample_bn", out_channels, 1, self.stride, self.pairs)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Computes the features of every stage, C2 to C5, with strides 4, 8, 16 and 32."""

    backbone: config.Backbone
    dtype: Any = jnp.float32
    images: int | None = None  # number of images in the batch, if they are in strips; None: whole

    @nn.compact
    def __call__(self, x: Maps, train: bool = False) -> tuple[Maps, ...]:
        """Computes the features of normalized images, given in pixels, in blocks or in strips of blocks."""
        backbone = self.backbone
        # The first maps have pairs of rows up to the first stride. Groups and offsets need single rows.
        pairs = in_blocks(x) and backbone.groups == 1 and not {1, 2} & set(backbone.deform_stages)
        x = self._stem(x.astype(self.dtype), train, pairs)
        # Nothing is trained below the last frozen stage. This cut lets XLA drop the backward pass.
        x = jax.lax.stop_gradient(x) if backbone.frozen_stages == 1 else x
        features = []
        for k, (blocks, width) in enumerate(zip(backbone.stage_sizes, backbone.widths, strict=True), 1):
            for i in range(blocks):
                stride = 2 if k > 1 and i == 0 else 1
                deformable = k in backbone.deform_stages
                name = f"layer{k}_{i}"
                block = ResidualBlock(
                    backbone, width, stride, self.dtype, deformable, pairs, self.images, name=name
                )
                x = block(x, train)
                pairs = pairs and stride == 1
            x = jax.lax.stop_gradient(x) if k == backbone.frozen_stages else x
            features.append(split_pairs(x) if pairs else x)
        return tuple(features)

    def _stem(self, x: Array, train: bool, pairs: bool) -> Array:
        width, blocks = self.backbone.widths[0], in_blocks(x)
        conv7 = self.backbone.stem == "conv7"
        fields: dict[str, Any] = {"use_bias": False, "dtype": self.dtype, "images": self.images}
        if conv7:
            conv = Conv(width, 7, 2, **fields, blocks=blocks, name="conv1")
        else:
            # The patches are 4x4 pixels, so a block of 8x4 is a pair of them.
            if not blocks:
                x = to_blocks(x, 4)
            elif not pairs:
                x = split_pairs(x)
            conv = Conv(width, 3, **fields, pairs=pairs, name="conv1")
        x = nn.relu(batch_norm(self.backbone, "bn1")(conv, x, train))
        if not conv7:
            return x
        if not blocks:
            return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = max_pool_of_blocks(x, self.images)
        return x if pairs else split_pairs(x)


def batch_norm(backbone: config.Backbone, name: str) -> BatchNorm:
    """The batch norm of a backbone."""
    return BatchNorm(backbone.norm == "frozen", backbone.train_norm, name=name)
