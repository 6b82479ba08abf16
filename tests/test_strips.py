"""Maps in strips say the same as whole ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.models.conv_gradient import conv2d
from gfl_jax.models.convolution import Conv
from gfl_jax.models.network import build_detector
from gfl_jax.models.preprocess import split_where_it_pays
from gfl_jax.pixel_blocks import max_pool_of_blocks, to_blocks
from gfl_jax.strips import split, split_like, whole, with_even_width, with_neighbors


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@given(st.integers(1, 3), st.sampled_from([1, 2, 4, 8]), st.integers(1, 5))
def test_there_and_back(batch, strips, width):
    x = numbers(batch, 3, strips * width, 2)
    there = split(x, strips)
    assert there.shape == (batch, strips, 3, width, 2)
    np.testing.assert_array_equal(whole(there), x)
    np.testing.assert_array_equal(split_like(x, there), there)
    np.testing.assert_array_equal(split_like(there, x), x)
    even = with_even_width(there)
    assert even.shape[1] == 1 or even.shape[3] % 2 == 0
    np.testing.assert_array_equal(whole(even), x)


def test_neighbors():
    x = np.arange(1.0, 7).reshape(1, 1, 6, 1)
    found = with_neighbors(split(x, 3), 1, 1)
    np.testing.assert_array_equal(found[0, :, 0, :, 0], [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 0]])
    found = with_neighbors(split(x, 3), 1, 0)
    np.testing.assert_array_equal(found[0, :, 0, :, 0], [[0, 1, 2], [2, 3, 4], [4, 5, 6]])


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("strips", [1, 2, 4])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_convolutions(size, stride, strips, width):
    x, kernel = numbers(2, 5, strips * width, 4), numbers(size, size, 2, 6)
    conv = Conv(6, size, stride, 2, use_bias=False)
    expected = conv2d(x, kernel, None, stride, 2)
    found = conv.apply({"params": {"kernel": kernel}}, split(x, strips))
    np.testing.assert_allclose(whole(found), expected, rtol=1e-4, atol=1e-5)


def test_pooling():
    x = np.abs(numbers(2, 5, 8, 12))
    np.testing.assert_array_equal(whole(max_pool_of_blocks(split(x, 4))), max_pool_of_blocks(x))


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("deform", [False, True])
def test_outputs_and_gradients_of_a_detector(small_detector, random_variables, norm, deform):
    """160 columns: the third level of the backbone has five, so that its strips are put together."""
    backbone = dataclasses.replace(small_detector.backbone, norm=norm)
    if deform:
        backbone = dataclasses.replace(backbone, block="bottleneck", deform_stages=(2,))
    network = build_detector(dataclasses.replace(small_detector, backbone=backbone), "float64")
    blocks = to_blocks(numbers(2, 64, 160, 3)).astype(float)

    @jax.jit
    def outputs_and_gradient(params, x):
        def total(params):
            found, updates = network.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return sum(jnp.sum(y * y) for y in jax.tree.leaves(found)), (found, updates)

        return jax.value_and_grad(total, has_aux=True)(params)

    with jax.enable_x64(True):
        drawn = random_variables(network, blocks)
        variables = jax.tree.map(lambda leaf: leaf.astype(float), drawn)
        both = [outputs_and_gradient(variables["params"], x) for x in (blocks, split(blocks, 8))]
    largest = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(both[0][1]))
    for expected, found in zip(*map(jax.tree.leaves, both), strict=True):
        # Gradients of biases before a norm are zero, but for the rounding of sums as large as the others.
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * largest)


def test_they_fill_the_registers_of_tpus():
    blocks, pixels = np.zeros((4, 16, 40, 48)), np.zeros((4, 64, 160, 3))
    strips = {images: split_where_it_pays(blocks, images, "tpu").shape[1] for images in (1, 2, 3, 4)}
    assert strips == {1: 8, 2: 4, 3: 2, 4: 2}
    assert split_where_it_pays(blocks, 5, "tpu") is blocks
    assert split_where_it_pays(blocks, 1, "gpu") is blocks
    assert split_where_it_pays(blocks, 1, None) is blocks
    assert split_where_it_pays(pixels, 1, "tpu") is pixels
    assert split_where_it_pays(np.zeros((1, 16, 20, 48)), 1, "tpu").shape[1] == 4
