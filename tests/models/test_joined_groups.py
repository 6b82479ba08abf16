"""Joining the groups of convolutions, as for TPUs, does not change their results."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.models.conv_gradient import conv2d
from gfl_jax.models.joined_groups import join_groups, num_joined


@pytest.mark.parametrize(
    ("channels", "groups", "joined"), [(256, 32, 2), (12, 4, 1), (96, 1, 1), (192, 6, 2), (512, 2, 2)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_joined_groups_give_the_same_convolution(channels, groups, joined, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 7, channels)), rng.normal(size=(3, 3, channels // groups, 2 * groups))
    assert num_joined(channels, groups) == joined
    with jax.enable_x64(True):
        wide = join_groups(jnp.asarray(kernel), groups)
        assert wide.shape == (3, 3, channels // joined, 2 * groups)
        found, expected = conv2d(x, wide, None, stride, joined), conv2d(x, kernel, None, stride, groups)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("platform", "groups"), [("tpu", "2"), ("cpu", "32"), ("cuda", "32")])
def test_tpus_join_groups_forward_and_backward(platform, groups):
    def gradients(x, kernel):
        y, pull_back = jax.vjp(lambda x, kernel: conv2d(x, kernel, None, 1, 32), x, kernel)
        return y, *pull_back(y)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 8, 8, 256), (3, 3, 8, 256))]
    lowered = jax.jit(gradients).trace(*shapes).lower(lowering_platforms=(platform,))
    found = re.findall(r"(?:batch|feature)_group_count = (\d+)", lowered.as_text())
    assert sorted(found) == ["1", "1", "1", groups, groups, groups]
    _, by_x, by_kernel = lowered.out_info
    assert (by_x.shape, by_kernel.shape) == ((2, 8, 8, 256), (3, 3, 8, 256))


def test_gradient_of_the_kernel_through_joined_groups():
    rng = np.random.default_rng(0)
    x, kernel, g = (
        rng.normal(size=(2, 5, 7, 256)),
        rng.normal(size=(3, 3, 8, 64)),
        rng.normal(size=(2, 5, 7, 64)),
    )
    with jax.enable_x64(True):
        joined = jax.vjp(lambda kernel: conv2d(x, join_groups(kernel, 32), None, 1, 2), jnp.asarray(kernel))[
            1
        ](g)
        plain = jax.vjp(lambda kernel: conv2d(x, kernel, None, 1, 32), jnp.asarray(kernel))[1](g)
        np.testing.assert_allclose(joined[0], plain[0], rtol=0, atol=1e-12)
