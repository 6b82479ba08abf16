"""Feature maps in strips give the same results as whole maps."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax import config
from gfl_jax.compilation.collectives import collectives_of
from gfl_jax.models.conv_gradient import conv2d
from gfl_jax.models.convolution import Conv
from gfl_jax.models.group_norm import GroupNorm
from gfl_jax.models.network import apply_network, build_detector
from gfl_jax.models.resnet import ResNet, num_one_by_one
from gfl_jax.parallel.mesh import make_mesh, replicated, split_by_batch
from gfl_jax.pixel_blocks import max_pool_of_blocks, to_blocks
from gfl_jax.strips import split, split_again, whole, with_even_width, with_neighbors


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@given(st.integers(1, 3), st.sampled_from([1, 2, 4, 8]), st.integers(1, 5))
def test_strips_round_trip(images, strips, width):
    x = numbers(images, 3, strips * width, 2)
    parts = split(x, strips)
    assert parts.shape == (images * strips, 3, width, 2)
    np.testing.assert_array_equal(parts[strips - 1], x[0, :, (strips - 1) * width :])
    np.testing.assert_array_equal(whole(parts, images), x)
    np.testing.assert_array_equal(split_again(parts, images, 1), x)
    assert split_again(parts, images, strips) is parts
    even = with_even_width(parts, images)
    assert len(even) == images or even.shape[2] % 2 == 0
    np.testing.assert_array_equal(whole(even, images), x)


def test_neighbors_are_in_the_same_image():
    x = np.arange(1.0, 13).reshape(2, 1, 6, 1)
    strips = split(x, 3)
    found = with_neighbors(strips, 2, 1, 1)[:, 0, :, 0]
    np.testing.assert_array_equal(found[:3], [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 0]])
    np.testing.assert_array_equal(found[3:], [[0, 7, 8, 9], [8, 9, 10, 11], [10, 11, 12, 0]])
    found = with_neighbors(strips, 2, 1, 0)[:, 0, :, 0]
    np.testing.assert_array_equal(found[:3], [[0, 1, 2], [2, 3, 4], [4, 5, 6]])


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("strips", [1, 2, 4])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_convolutions(size, stride, strips, width):
    x, kernel = numbers(2, 5, strips * width, 4), numbers(size, size, 2, 6)
    conv = Conv(6, size, stride, 2, use_bias=False, images=2)
    expected = conv2d(x, kernel, None, stride, 2)
    found = conv.apply({"params": {"kernel": kernel}}, split(x, strips))
    np.testing.assert_allclose(whole(found, 2), expected, rtol=1e-4, atol=1e-5)


def test_pooling():
    x = np.abs(numbers(2, 5, 8, 24))
    found = max_pool_of_blocks(split(x, 4), 2)
    np.testing.assert_array_equal(whole(found, 2), max_pool_of_blocks(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_group_norm_equals_that_of_flax(dtype):
    x = jnp.asarray(10 + numbers(2, 5, 8, 12), dtype)
    variables = {"params": {"scale": numbers(12), "bias": numbers(12) + 1}}
    expected = nn.GroupNorm(3, epsilon=1e-5, use_fast_variance=False).apply(variables, x.astype(np.float32))
    rounding = 1e-2 if dtype == "bfloat16" else 1e-5
    found = GroupNorm(3).apply(variables, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=rounding, atol=rounding)
    found = whole(GroupNorm(3, images=2).apply(variables, split(x, 4)), 2)
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("deform", [False, True])
def test_outputs_and_gradients_of_a_detector(small_detector, random_variables, norm, deform):
    """Two images on one chip, and on two. The third level of the backbone has five columns for each half."""
    backbone = dataclasses.replace(small_detector.backbone, norm=norm)
    if deform:
        backbone = dataclasses.replace(backbone, block="bottleneck", deform_stages=(2,))
    network = build_detector(dataclasses.replace(small_detector, backbone=backbone), "float64")
    blocks = to_blocks(numbers(2, 64, 160, 3)).astype(float)

    @functools.partial(jax.jit, static_argnums=2)
    def outputs_and_gradient(params, images, chips):
        def total(params):
            all_variables = {**variables, "params": params}
            how = {"train": True, "mutable": ["batch_stats"]}
            found, updates = apply_network(network, all_variables, images, chips, **how)
            return sum(jnp.sum(y * y) for y in jax.tree.leaves(found)), (found, updates)

        return jax.value_and_grad(total, has_aux=True)(params)

    with jax.enable_x64(True):
        drawn = random_variables(network, blocks)
        variables = jax.tree.map(lambda leaf: leaf.astype(float), drawn)
        expected, *results = [outputs_and_gradient(variables["params"], blocks, n) for n in (None, 1, 2)]
    largest = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(expected[1]))
    for found in results:
        # Gradients of biases before a norm are zero up to rounding in sums as large as the other gradients.
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12 * largest), found, expected
        )


def test_images_of_chips_are_computed_one_by_one_without_communication(small_detector, random_variables):
    """Three images on each of eight chips: the first stages are in strips, the others are not."""
    backbone = dataclasses.replace(small_detector.backbone, norm="frozen")
    network = build_detector(dataclasses.replace(small_detector, backbone=backbone))
    blocks = to_blocks(numbers(24, 64, 64, 3))
    variables = random_variables(network, blocks[:1])
    mesh = make_mesh()

    def outputs(chips):
        def run(variables, images):
            return apply_network(network, variables, images, chips, train=True)

        rows = split_by_batch(mesh)
        jitted = jax.jit(run, in_shardings=(replicated(mesh), rows), out_shardings=rows)
        program = jitted.lower(variables, blocks).compile()
        return program.as_text(), program(variables, blocks)

    (_, expected), (text, found) = outputs(None), outputs(mesh.size)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)
    assert collectives_of(text) == []
    assert re.search(r"f32\[8,\d+,\d+,\d+\]\S* convolution", text)  # eight strips of one image


def test_the_strips_of_a_single_image_fill_the_registers_of_tpus(small_detector):
    def strips(images, columns):
        """The number of strips in which C2 leaves the backbone."""
        network = ResNet(small_detector.backbone, images=images)
        blocks = jax.ShapeDtypeStruct((images, 8, columns, 96), np.float32)
        (c2, *_), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), blocks)
        return len(c2) // images

    assert [strips(1, columns) for columns in (40, 20, 21)] == [8, 4, 1]
    assert {strips(images, 40) for images in (2, 3, 4, 8, 16)} == {1}


def test_stages_are_computed_one_by_one_if_their_strips_fill_the_registers():
    plain = config.Backbone(norm="frozen")
    assert [num_one_by_one(plain, columns, True) for columns in (336, 200, 100)] == [3, 2, 0]
    deformable = dataclasses.replace(plain, deform_stages=(2, 3, 4))
    assert num_one_by_one(deformable, 336, True) == 2
    batch = dataclasses.replace(plain, norm="batch")
    assert [num_one_by_one(batch, 336, train) for train in (True, False)] == [0, 3]
