from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.models import fpn
from gfl_jax.models.convolution import BatchNorm, Conv


def naive_convolution(x, kernel, bias, stride, groups):
    """A convolution of one image, padded by half the kernel on all sides, pixel by pixel."""
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
def test_convolution_pads_both_sides_equally(kernel_size, stride, groups, height, width):
    """With stride 2 and an even size, XLA's SAME would pad only on the right and at the bottom."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 4))
    kernel = rng.normal(size=(kernel_size, kernel_size, 4 // groups, 6))
    bias = rng.normal(size=6)
    conv = Conv(6, kernel_size, stride, groups)
    found = conv.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = np.stack([naive_convolution(image, kernel, bias, stride, groups) for image in x])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_convolution_without_bias_has_none():
    init = Conv(6, 3, use_bias=False).init
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    assert set(variables["params"]) == {"kernel"}


class ConvAndNorm(nn.Module):
    """A convolution followed by a norm."""

    frozen: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        conv = Conv(5, 3, use_bias=False, dtype=self.dtype, name="conv")
        return BatchNorm(self.frozen, name="bn")(conv, x, train)


def norm_variables(rng, features=5):
    bn = {"scale": rng.normal(size=features), "bias": rng.normal(size=features)}
    stats = {"mean": rng.normal(size=features), "var": rng.uniform(0.5, 2, features)}
    params = {"conv": {"kernel": rng.normal(size=(3, 3, 4, features))}, "bn": bn}
    return jax.tree.map(jnp.float32, {"params": params, "batch_stats": {"bn": stats}})


def convolved(x, variables):
    kernel = variables["params"]["conv"]["kernel"]
    return np.stack([naive_convolution(image, np.asarray(kernel), np.zeros(5), 1, 1) for image in x])


def normalized(y, mean, var, variables):
    bn = variables["params"]["bn"]
    return (y - mean) / np.sqrt(var + 1e-5) * bn["scale"] + bn["bias"]


def test_batch_norm_in_training_follows_pytorch():
    """The biased variance normalizes. The unbiased one updates the running variance, with weight 0.1."""
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.normal(size=(2, 3, 4, 4))).astype(np.float32)
    variables = norm_variables(rng)
    found, updates = ConvAndNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    y = convolved(x, variables)
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    np.testing.assert_allclose(found, normalized(y, mean, var, variables), rtol=1e-4, atol=1e-5)
    before, after = variables["batch_stats"]["bn"], updates["batch_stats"]["bn"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * y.var((0, 1, 2), ddof=1), rtol=1e-5)


@pytest.mark.parametrize(("frozen", "train"), [(True, True), (True, False), (False, False)])
def test_batch_norm_frozen_or_in_evaluation_uses_the_running_statistics_unchanged(frozen, train):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    variables = norm_variables(rng)
    found, updates = ConvAndNorm(frozen).apply(variables, x, train=train, mutable=["batch_stats"])
    stats = variables["batch_stats"]["bn"]
    expected = normalized(convolved(x, variables), stats["mean"], stats["var"], variables)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"]["bn"], stats)


def test_gradients_with_folded_statistics_equal_those_of_a_norm_after_the_convolution():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    cotangent = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    variables = norm_variables(rng)
    stats = variables["batch_stats"]["bn"]

    def folded(params, x):
        y = ConvAndNorm(frozen=True).apply({**variables, "params": params}, x, train=True)
        return jnp.sum(y * cotangent)

    def separate(params, x):
        y = Conv(5, 3, use_bias=False).apply({"params": params["conv"]}, x)
        return jnp.sum(normalized(y, stats["mean"], stats["var"], {"params": params}) * cotangent)

    found = jax.grad(folded, (0, 1))(variables["params"], x)
    expected = jax.grad(separate, (0, 1))(variables["params"], x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def test_initializing_batch_norm_leaves_its_statistics_at_zero_and_one():
    x = 5 + np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    variables = jax.jit(lambda: ConvAndNorm().init(jax.random.key(0), x, train=True))()
    np.testing.assert_array_equal(variables["batch_stats"]["bn"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["bn"]["var"], 1)


@pytest.mark.parametrize("upsample", [fpn.upsample_twice, fpn._upsample_by_convolution])
def test_upsampling_repeats_each_pixel(upsample):
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    expected = [[0, 0, 2, 2, 4, 4], [0, 0, 2, 2, 4, 4], [6, 6, 8, 8, 10, 10], [6, 6, 8, 8, 10, 10]]
    np.testing.assert_array_equal(upsample(x)[0, ..., 0], expected)
    np.testing.assert_array_equal(upsample(x)[0, ..., 1], np.array(expected) + 1)
    cotangent = jnp.arange(48.0).reshape(1, 4, 6, 2)
    gradient = jax.grad(lambda x: jnp.sum(upsample(x) * cotangent))(x)
    np.testing.assert_array_equal(gradient, cotangent.reshape(1, 2, 2, 3, 2, 2).sum((2, 4)))
