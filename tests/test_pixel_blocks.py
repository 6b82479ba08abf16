"""Images in blocks give the same results as images in pixels."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax import config
from gfl_jax.data.loader import reads_blocks
from gfl_jax.models.conv_gradient import conv2d
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.models.resnet import ResNet
from gfl_jax.models.row_pairs import split_pairs
from gfl_jax.pixel_blocks import (
    block_kernel,
    canvas_size,
    in_blocks,
    max_pool_of_blocks,
    to_blocks,
    to_pixels,
)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_blocks_round_trip(batch, rows, columns):
    images = np.random.default_rng(0).integers(0, 256, (batch, 8 * rows, 4 * columns, 3), np.uint8)
    blocks = to_blocks(images)
    assert in_blocks(blocks)
    assert not in_blocks(images)
    assert canvas_size(blocks) == canvas_size(images) == images.shape[1:3]
    np.testing.assert_array_equal(to_pixels(blocks), images)
    np.testing.assert_array_equal(to_pixels(images), images)
    np.testing.assert_array_equal(blocks[0, 0, 0].reshape(8, 4, 3), images[0, :8, :4])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalized_blocks_equal_blocks_of_normalized_images(order):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8)
    sizes = np.array([[8, 12], [3, 5], [1, 1]], np.int32)
    settings = config.Normalization(channel_order=order)
    expected = to_blocks(normalize_images(images, sizes, settings))
    np.testing.assert_array_equal(normalize_images(to_blocks(images), sizes, settings), expected)


def test_convolution_and_pooling_of_blocks_equal_those_of_pixels():
    rng = np.random.default_rng(1)
    kernel = jnp.asarray(rng.normal(size=(7, 7, 3, 4)), jnp.float32)
    images = jnp.asarray(rng.normal(size=(2, 16, 24, 3)), jnp.float32)
    expected = conv2d(images, kernel, None, 2, 1)
    found = conv2d(to_blocks(images), block_kernel(kernel), None, 1, 1)
    columns = found.reshape(2, 2, 6, 2, 4, 4)[..., jnp.array([0, 2, 1, 3]), :]
    in_order = columns.transpose(0, 1, 4, 2, 3, 5).reshape(2, 8, 12, 4)
    np.testing.assert_allclose(in_order, expected, rtol=1e-4, atol=1e-4)
    pooled = nn.max_pool(nn.relu(in_order), (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(split_pairs(max_pool_of_blocks(nn.relu(found))), pooled)


@pytest.mark.parametrize(
    "fields",
    [
        {"stem": "conv7", "norm": "batch"},
        {"stem": "patch4", "norm": "batch"},
        {"stem": "conv7", "norm": "frozen", "block": "bottleneck"},
        {"stem": "conv7", "norm": "frozen", "block": "bottleneck", "style": "caffe"},
        {"stem": "conv7", "norm": "frozen", "block": "bottleneck", "groups": 2},
    ],
)
def test_features_and_gradients_are_the_same(small_detector, fields):
    """With strides in 3x3 and in 1x1 convolutions, and with groups, for which rows are not in pairs."""
    network = ResNet(dataclasses.replace(small_detector.backbone, **fields))
    images = np.random.default_rng(2).normal(size=(2, 64, 96, 3)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images)

    @functools.partial(jax.jit, static_argnames="train")
    def features(params, x, train=True):
        found, updates = network.apply({**variables, "params": params}, x, train, mutable=["batch_stats"])
        return found, updates["batch_stats"]

    blocks = to_blocks(images)
    assert jax.tree.map(jnp.shape, jax.eval_shape(network.init, jax.random.key(0), blocks)) == jax.tree.map(
        jnp.shape, variables
    )

    def total(params, x):
        return sum(jnp.sum(y * y) for y in features(params, x)[0])

    both = [features(variables["params"], x) for x in (images, blocks)]
    for expected, found in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # The tests switch fusion emitters off for speed. Without emitters and without optimizations, XLA's CPU
    # compiler gets the gradient of the stem's bias wrong by a tenth.
    emitters = {"xla_cpu_use_fusion_emitters": True} if jaxlib.__version__.startswith("0.10.") else None
    gradient = jax.jit(jax.grad(total), compiler_options=emitters)
    gradients = [gradient(variables["params"], x) for x in (images, blocks)]
    for expected, found in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.max(np.abs(expected))))


def test_blocks_are_used_on_tpus_or_on_request():
    experiment = config.Config(name="x")
    assert reads_blocks(experiment, "tpu")
    assert not reads_blocks(experiment, "cpu")
    with_blocks = dataclasses.replace(experiment, loader=config.Loader(blocks=True))
    assert reads_blocks(with_blocks, "cpu")
