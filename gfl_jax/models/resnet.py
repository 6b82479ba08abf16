"""Residual networks (He et al. 2016): ResNet, ResNeXt, variants with deformable convolutions, small ones."""

import functools
import math
from collections.abc import Callable, Sequence
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
from gfl_jax.strips import ROWS, Maps, WholeMaps, one_by_one, split, whole

EXPANSION = {"basic": 1, "bottleneck": 4}

Part = Callable[[Maps], Maps]  # the stem, or a stage


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
    """Computes the features of every stage, C2 to C5, with strides 4, 8, 16 and 32.

    On a TPU a single image is computed in strips, which fill the rows of the chip's registers. With more
    images, the columns of neighboring strips cost more than empty rows. But the stem and the first two stages
    still compute one image at a time, in strips: their maps are the largest, and those of one image fit into
    the fast memory of a chip.
    """

    backbone: config.Backbone
    dtype: Any = jnp.float32
    images: int | None = None  # number of images in the batch, if maps may be in strips; None: whole maps
    chips: int = 1  # number of chips that the images are on

    @nn.compact
    def __call__(self, x: WholeMaps, train: bool = False) -> tuple[Maps, ...]:
        """Computes the features of normalized images, given in pixels or in blocks."""
        backbone = self.backbone
        # The first maps have pairs of rows up to the first stride. Groups and offsets need single rows.
        pairs = in_blocks(x) and backbone.groups == 1 and not {1, 2} & set(backbone.deform_stages)
        single = self.images == self.chips  # one image on each chip
        first = 0 if self.images is None or single else num_one_by_one(backbone, x.shape[2], train)
        images = [self.chips if k < first else self.images for k in range(len(backbone.stage_sizes) + 1)]
        parts = [self._stem(in_blocks(x), pairs, images[0], train)]
        parts += [self._stage(k, pairs, images[k], train) for k in range(1, len(images))]

        x = x.astype(self.dtype)
        maps: list[Maps] = [split(x, math.gcd(ROWS, x.shape[2])) if single else x]
        if self.images is not None and first:
            first_parts = functools.partial(_results_of, parts[:first])
            results = one_by_one(first_parts, split(x, ROWS), self.images, self.chips)
            maps = [whole(y, self.images) for y in results]
        maps += _results_of(parts[first:], maps[-1])
        c2, *others = maps[-len(backbone.stage_sizes) :]
        return split_pairs(c2) if pairs else c2, *others

    def _stem(self, blocks: bool, pairs: bool, images: int | None, train: bool) -> Part:
        width, conv7 = self.backbone.widths[0], self.backbone.stem == "conv7"
        fields: dict[str, Any] = {"use_bias": False, "dtype": self.dtype, "images": images, "name": "conv1"}
        conv = Conv(width, 7, 2, **fields, blocks=blocks) if conv7 else Conv(width, 3, **fields, pairs=pairs)
        norm = batch_norm(self.backbone, "bn1")

        def stem(x: Maps) -> Maps:
            if not conv7:
                # The patches are 4x4 pixels, so a block of 8x4 is a pair of them.
                patches = x if pairs else split_pairs(x) if blocks else to_blocks(x, 4)
                return nn.relu(norm(conv, patches, train))
            x = nn.relu(norm(conv, x, train))
            if not blocks:
                return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            x = max_pool_of_blocks(x, images)
            return x if pairs else split_pairs(x)

        return stem

    def _stage(self, k: int, pairs: bool, images: int | None, train: bool) -> Part:
        backbone = self.backbone
        blocks = [
            ResidualBlock(
                backbone,
                backbone.widths[k - 1],
                2 if k > 1 and i == 0 else 1,
                self.dtype,
                k in backbone.deform_stages,
                pairs and (k == 1 or (k == 2 and i == 0)),
                images,
                name=f"layer{k}_{i}",
            )
            for i in range(backbone.stage_sizes[k - 1])
        ]

        def stage(x: Maps) -> Maps:
            for block in blocks:
                x = block(x, train)
            # Nothing is trained up to the last frozen stage. This cut lets XLA drop the backward pass.
            return jax.lax.stop_gradient(x) if k == backbone.frozen_stages else x

        return stage


def num_one_by_one(backbone: config.Backbone, columns: int, train: bool) -> int:
    """How many of the stem and the first two stages should compute one image at a time on a TPU.

    Args:
      backbone: the network.
      columns: of the maps of the stem and of the first stage; the second stage has half as many.
      train: whether the network is trained.
    """
    if train and backbone.norm == "batch":
        return 0  # statistics are those of all images
    filling = 3 if columns % (2 * ROWS) == 0 else 2 if columns % ROWS == 0 else 0  # with ROWS equal strips
    return min((filling, *backbone.deform_stages))


def _results_of(parts: Sequence[Part], x: Maps) -> list[Maps]:
    """The results of all parts, each of which gets the result of the one before."""
    results = []
    for part in parts:
        x = part(x)
        results.append(x)
    return results


def batch_norm(backbone: config.Backbone, name: str) -> BatchNorm:
    """The batch norm of a backbone."""
    return BatchNorm(backbone.norm == "frozen", backbone.train_norm, name=name)
