"""Deformable convolution: properties that `main.py verify` does not check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gfl_jax import config
from gfl_jax.models.conv_gradient import conv2d
from gfl_jax.models.deform_conv import DeformConv, deform_conv2d
from gfl_jax.models.resnet import ResNet

SIZES = (2, 7, 9, 8)  # images, rows, columns, channels


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(("stride", "groups", "deform_groups"), [(1, 1, 1), (2, 1, 2), (1, 4, 1)])
def test_without_offsets_it_equals_a_convolution(stride, groups, deform_groups):
    with jax.enable_x64(True):
        x, kernel = normal(0, *SIZES), normal(1, 3, 3, 8 // groups, 12)
        plain = conv2d(x, kernel, None, stride, groups)
        offsets = jnp.zeros((*plain.shape[:3], deform_groups * 18))
        moved = deform_conv2d(x, offsets, kernel, None, stride, groups, deform_groups)
        np.testing.assert_allclose(moved, plain, rtol=0, atol=1e-12)


def test_offsets_are_y_and_x():
    x, kernel = normal(0, *SIZES).astype(jnp.float32), normal(1, 3, 3, 8, 4).astype(jnp.float32)
    down = jnp.zeros((*SIZES[:3], 9, 2)).at[..., 0].set(1).reshape(*SIZES[:3], 18)
    moved = deform_conv2d(x, down, kernel)
    shifted = conv2d(jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0))), kernel, None, 1, 1)
    # Positions above the first row move onto the image, but the shifted image does not contain that row.
    np.testing.assert_allclose(moved[:, 1:], shifted[:, 1:], atol=1e-5)


def test_positions_far_outside_give_zero_results_and_gradients():
    x, kernel = normal(0, *SIZES).astype(jnp.float32), normal(1, 3, 3, 8, 4).astype(jnp.float32)
    far = jnp.full((*SIZES[:3], 18), 1e6)
    total, gradients = jax.value_and_grad(lambda *args: jnp.sum(deform_conv2d(*args)), (0, 1))(x, far, kernel)
    assert total == 0
    assert not any(np.any(gradient) for gradient in gradients)


def test_gradients_of_offsets_and_masks_by_finite_differences():
    with jax.enable_x64(True):
        x, kernel = normal(0, 1, 5, 6, 4), normal(1, 3, 3, 4, 2)
        offsets, mask = 0.7 * normal(2, 1, 5, 6, 18), jax.nn.sigmoid(normal(3, 1, 5, 6, 9))

        def total(offsets, mask):
            return jnp.sum(jnp.sin(deform_conv2d(x, offsets, kernel, mask)))

        check_grads(jax.jit(total), (offsets, mask), order=1, modes=["rev"], eps=1e-6, rtol=1e-6)


def test_memory_is_less_than_that_of_all_sampled_columns():
    x, kernel = jnp.zeros((1, 25, 42, 64)), jnp.zeros((3, 3, 64, 64))
    offsets = jnp.zeros((1, 25, 42, 18))

    def total(x, offsets, kernel):
        return jnp.sum(jnp.square(deform_conv2d(x, offsets, kernel)))

    columns = 9 * x.nbytes
    forward = jax.jit(deform_conv2d).lower(x, offsets, kernel).compile()
    backward = jax.jit(jax.grad(total, (0, 1, 2))).lower(x, offsets, kernel).compile()
    assert forward.memory_analysis().temp_size_in_bytes < columns
    assert backward.memory_analysis().temp_size_in_bytes < columns


def test_positions_are_exact_with_bfloat16_offsets():
    """In bfloat16 the position 300.5 would be rounded to 300."""
    ramp = jnp.arange(512.0)[None, None, :, None]
    kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    offsets = jnp.zeros((1, 1, 512, 2), jnp.bfloat16).at[..., 1].set(0.5)
    found = deform_conv2d((ramp > 300).astype(jnp.bfloat16), offsets, kernel)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[0, 0, 298:303, 0].astype(jnp.float32), [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize(("version", "channels"), [(1, 18), (2, 27)])
def test_it_is_initialized_as_a_plain_convolution(version, channels):
    x = jnp.ones((1, 8, 8, 4))
    layer = DeformConv(6, version=version)
    variables = layer.init(jax.random.key(0), x)
    assert variables["params"]["conv_offset"]["kernel"].shape == (3, 3, 4, channels)
    plain = conv2d(x, variables["params"]["kernel"], None, 1, 1)
    np.testing.assert_allclose(layer.apply(variables, x), plain * (1.0 if version == 1 else 0.5), rtol=1e-5)


def test_shapes_of_resnext_and_deformable_stages():
    backbone = config.Backbone(
        stage_sizes=(1, 1), widths=(64, 128), groups=32, group_width=8, deform_stages=(2,), deform_version=2
    )
    shapes = jax.eval_shape(ResNet(backbone).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    assert shapes["layer1_0"]["conv2"]["kernel"].shape == (3, 3, 8, 256)
    assert shapes["layer2_0"]["conv2"]["kernel"].shape == (3, 3, 16, 512)
    assert shapes["layer2_0"]["conv2"]["conv_offset"]["kernel"].shape == (3, 3, 512, 27)
    assert "conv_offset" not in shapes["layer1_0"]["conv2"]
