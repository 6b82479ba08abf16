import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.models.conv_gradient import conv2d, in_a_loop, own_kernel_gradient


def gradients(x, kernel, cotangent, stride, groups, own, loop=False):
    """Of the convolution's sum against `cotangent`, by x and by the kernel."""

    def total(x, kernel):
        return jnp.sum(conv2d(x, kernel, stride, groups) * cotangent)

    with own_kernel_gradient(own), in_a_loop(loop):
        return jax.jit(jax.grad(total, argnums=(0, 1)))(x, kernel)


@pytest.mark.parametrize(
    ("size", "stride", "groups", "channels", "dtype"),
    [
        (1, 1, 1, 8, "float64"),
        (1, 2, 1, 8, "float64"),
        (3, 1, 1, 128, "float64"),
        (3, 1, 1, 128, "float32"),  # in float32 only, a gradient of our own
        (3, 2, 1, 128, "float64"),
        (3, 1, 4, 128, "float64"),
        (7, 1, 1, 128, "float32"),
        (7, 2, 1, 3, "float64"),
    ],
)
def test_gradients_are_xlas(size, stride, groups, channels, dtype):
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
            return jax.jit(jax.grad(lambda k: jnp.sum(conv2d(x, k, stride, 1)))).lower(kernel).as_text()

    assert text(True, False, 1) != text(False, False, 1)
    assert text(True, True, 2) != text(True, False, 2)
