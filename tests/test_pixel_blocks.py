"""Images in blocks of pixels say the same as images in pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax import config
from gfl_jax.data.loader import reads_blocks
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.models.resnet import ResNet
from gfl_jax.pixel_blocks import block_kernel, canvas_size, in_blocks, to_blocks, to_pixels


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_there_and_back(batch, rows, columns):
    images = np.random.default_rng(0).integers(0, 256, (batch, 2 * rows, 2 * columns, 3), np.uint8)
    blocks = to_blocks(images)
    assert in_blocks(blocks)
    assert not in_blocks(images)
    assert canvas_size(blocks) == canvas_size(images) == images.shape[1:3]
    np.testing.assert_array_equal(to_pixels(blocks), images)
    np.testing.assert_array_equal(to_pixels(images), images)
    np.testing.assert_array_equal(blocks[0, 0, 0].reshape(2, 2, 3), images[0, :2, :2])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalized_blocks_are_blocks_of_what_is_normalized(order):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    sizes = np.array([[6, 8], [3, 5], [1, 1]], np.int32)
    settings = config.Normalization(channel_order=order)
    expected = to_blocks(normalize_images(images, sizes, settings))
    np.testing.assert_array_equal(normalize_images(to_blocks(images), sizes, settings), expected)


@pytest.mark.parametrize("size", [3, 7])
def test_the_kernel_sees_the_same_pixels(size):
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(size, size, 3, 4))
    images = rng.normal(size=(1, 16, 16, 3))
    before = (size + 1) // 2 // 2
    padded = np.pad(to_blocks(images), ((0, 0), (before, before), (before, before), (0, 0)))
    blocks = np.asarray(block_kernel(jnp.asarray(kernel)))
    half = size // 2
    pixels = np.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
    for i, j in [(0, 0), (3, 5), (7, 7)]:
        found = np.sum(padded[0, i : i + len(blocks), j : j + len(blocks), :, None] * blocks, (0, 1, 2))
        window = pixels[0, 2 * i : 2 * i + size, 2 * j : 2 * j + size, :, None]
        np.testing.assert_allclose(found, np.sum(window * kernel, (0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("stem", ["conv7", "patch4"])
def test_features_and_gradients_are_the_same(small_detector, stem):
    backbone = dataclasses.replace(small_detector.backbone, stem=stem, frozen_stages=0)
    network = ResNet(backbone)
    images = np.random.default_rng(2).normal(size=(2, 64, 96, 3)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images)
    in_pixels = network.apply(variables, images)
    blocks = to_blocks(images)
    assert jax.tree.map(jnp.shape, jax.eval_shape(network.init, jax.random.key(0), blocks)) == jax.tree.map(
        jnp.shape, variables
    )

    def total(params, x):
        return sum(jnp.sum(y * y) for y in network.apply({**variables, "params": params}, x))

    for found, expected in zip(network.apply(variables, blocks), in_pixels, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    gradients = [jax.jit(jax.grad(total))(variables["params"], x) for x in (images, blocks)]
    for expected, found in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.max(np.abs(expected))))


def test_they_are_read_where_they_pay():
    experiment = config.Config(name="x")
    assert reads_blocks(experiment, "tpu")
    assert not reads_blocks(experiment, "cpu")
    patches = dataclasses.replace(
        experiment,
        detector=dataclasses.replace(
            experiment.detector, backbone=dataclasses.replace(experiment.detector.backbone, stem="patch4")
        ),
    )
    assert not reads_blocks(patches, "tpu")
    asked = dataclasses.replace(experiment, loader=config.Loader(blocks=True))
    assert reads_blocks(asked, "cpu")
