import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.models.conv_gradient import conv2d, in_a_loop, own_kernel_gradient


def gradients(x, kernel, cotangent, stride, groups, own, loop=False):
    """The gradients, by x and by the kernel, of the sum of the convolution times `cotangent`."""

    def total(x, kernel):
        return jnp.sum(conv2d(x, kernel, None, stride, groups) * cotangent)

    with own_kernel_gradient(own), in_a_loop(loop):
        return jax.jit(jax.grad(total, argnums=(0, 1)))(x, kernel)


@pytest.mark.parametrize(
    ("size", "stride", "groups", "channels", "dtype"),
    [
        (1, 1, 1, 8, "float64"),
        (1, 2, 1, 8, "float64"),
        (3, 1, 1, 128, "float64"),
        (3, 1, 1, 128, "float32"),  # the gradient is our own only in float32
        (3, 2, 1, 128, "float64"),
        (3, 1, 4, 128, "float64"),
        (7, 1, 1, 128, "float32"),
        (7, 2, 1, 3, "float64"),
    ],
)
def test_gradients_equal_those_of_xla(size, stride, groups, channels, dtype):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(size=(2, 9, 12, channels))
        kernel = rng.normal(size=(size, size, channels // groups, 8))
        cotangent = rng.normal(size=(2, -(-9 // stride), -(-12 // stride), 8))
        arrays = [jnp.asarray(array, dtype) for array in (x, kernel, cotangent)]
        own = gradients(*arrays, stride, groups, True)
        looped = gradients(*arrays, stride, groups, True, loop=True)
        by_xla = gradients(x, kernel, cotangent, stride, groups, False)
    tolerance = {"float64": 1e-10, "float32": 2e-6}[dtype]
    for ours, theirs in zip((*own, *looped), (*by_xla, *by_xla), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * float(np.max(np.abs(theirs))))


def test_the_switches_change_what_is_compiled():
    x, kernel = jnp.ones((1, 8, 8, 128)), jnp.ones((3, 3, 128, 8))

    def text(own, loop, stride):
        with own_kernel_gradient(own), in_a_loop(loop):
            return jax.jit(jax.grad(lambda k: jnp.sum(conv2d(x, k, None, stride, 1)))).lower(kernel).as_text()

    assert text(True, False, 1) != text(False, False, 1)
    assert text(True, True, 2) != text(True, False, 2)


@pytest.mark.parametrize(("size", "stride", "channels"), [(1, 1, 8), (3, 1, 128), (3, 2, 8)])
def test_with_bfloat16_maps_gradients_of_parameters_are_summed_in_float32(size, stride, channels):
    """They are also returned in float32, as exact as if the rounded maps were in float32."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 20, 24, channels)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, 8)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=8), jnp.float32)
    cotangent = jnp.asarray(1 + rng.normal(size=(2, 20 // stride, 24 // stride, 8)), jnp.bfloat16)

    def of(x, cotangent, own, loop):
        def total(kernel, bias):
            return jnp.sum((conv2d(x, kernel, bias, stride, 1) * cotangent).astype(jnp.float32))

        with own_kernel_gradient(own), in_a_loop(loop):
            return jax.jit(jax.grad(total, argnums=(0, 1)))(kernel, bias)

    exact = of(x.astype(jnp.float32), cotangent.astype(jnp.float32), False, False)
    for own, loop in [(True, False), (False, False), (True, True)]:
        for found, expected in zip(of(x, cotangent, own, loop), exact, strict=True):
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
