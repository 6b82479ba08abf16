import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.models.convolution import BatchNorm, Conv
from gfl_jax.models.fpn import upsample_twice
from gfl_jax.models.resnet import space_to_depth


def naive_convolution(x, kernel, bias, stride, groups):
    """A convolution of one picture, padded by half the kernel on all sides, pixel by pixel."""
    size, _, group_channels, features = kernel.shape
    half = size // 2
    padded = np.pad(x, ((half, half), (half, half), (0, 0)))
    rows = (padded.shape[0] - size) // stride + 1
    columns = (padded.shape[1] - size) // stride + 1
    y = np.zeros((rows, columns, features))
    for i in range(rows):
        for j in range(columns):
            window = padded[i * stride : i * stride + size, j * stride : j * stride + size]
            for k in range(features):
                first = k // (features // groups) * group_channels
                y[i, j, k] = np.sum(window[..., first : first + group_channels] * kernel[..., k]) + bias[k]
    return y


@pytest.mark.parametrize(
    ("kernel_size", "stride", "groups", "height", "width"),
    [(3, 2, 1, 8, 7), (7, 2, 1, 9, 10), (1, 2, 1, 5, 6), (3, 1, 1, 4, 5), (3, 2, 2, 6, 7)],
)
def test_convolution_pads_both_sides_alike(kernel_size, stride, groups, height, width):
    """With stride 2 and an even size, XLA's SAME would pad on the right and at the bottom alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 4))
    kernel = rng.normal(size=(kernel_size, kernel_size, 4 // groups, 6))
    bias = rng.normal(size=6)
    conv = Conv(6, kernel_size, stride, groups)
    found = conv.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = np.stack([naive_convolution(picture, kernel, bias, stride, groups) for picture in x])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_convolution_without_bias_has_none():
    init = Conv(6, 3, use_bias=False).init
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    assert set(variables["params"]) == {"kernel"}


def norm_variables(rng, channels):
    params = {"scale": rng.normal(size=channels), "bias": rng.normal(size=channels)}
    stats = {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2, channels)}
    return jax.tree.map(jnp.float32, {"params": params, "batch_stats": stats})


def normalized(x, mean, var, params):
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def test_batch_norm_in_training_is_pytorchs():
    """The biased variance normalizes; the unbiased one goes into the running variance, with weight 0.1."""
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.normal(size=(2, 3, 4, 5))).astype(np.float32)
    variables = norm_variables(rng, 5)
    found, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(found, normalized(x, mean, var, variables["params"]), rtol=1e-4, atol=1e-5)
    before, after = variables["batch_stats"], updates["batch_stats"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)


@pytest.mark.parametrize(("frozen", "train"), [(True, True), (True, False), (False, False)])
def test_batch_norm_frozen_or_not_in_training_uses_and_leaves_the_running_statistics(frozen, train):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    variables = norm_variables(rng, 5)
    found, updates = BatchNorm(frozen).apply(variables, x, train=train, mutable=["batch_stats"])
    stats = variables["batch_stats"]
    expected = normalized(x, stats["mean"], stats["var"], variables["params"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], stats)


def test_initializing_batch_norm_leaves_its_statistics_at_zero_and_one():
    x = 5 + np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    variables = jax.jit(lambda: BatchNorm().init(jax.random.key(0), x, train=True))()
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)


def test_space_to_depth_moves_each_block_into_channels():
    x = np.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2)
    found = space_to_depth(x, 3)
    assert found.shape == (2, 2, 3, 18)
    for i in range(2):
        for j in range(3):
            block = x[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
            np.testing.assert_array_equal(found[:, i, j], block.reshape(2, -1))


def test_upsampling_repeats_each_pixel():
    x = np.arange(6).reshape(1, 2, 3, 1)
    expected = [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [3, 3, 4, 4, 5, 5]]
    np.testing.assert_array_equal(upsample_twice(x)[0, ..., 0], expected)
