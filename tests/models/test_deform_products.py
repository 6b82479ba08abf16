"""Deformable convolution by products of matrices, the form of TPUs, compared with the form by gathers."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gfl_jax.models.deform_conv import deform_conv2d

SIZE = (31, 37)  # rows and columns: more than one window of pixels


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def make_inputs(channels, out, stride=1, groups=1, deform_groups=1, size=SIZE, batch=2):
    """Features, offsets, kernel, mask and the gradient of the result."""
    rows, columns = (-(-side // stride) for side in size)
    offsets = 4 * normal(1, batch, rows, columns, deform_groups * 18)
    offsets[:, ::2] = np.round(offsets[:, ::2])  # some exactly on pixels, on the border, and just beyond it
    offsets[:, 1, :3], offsets[:, 1, 3:6] = 1e6, -1e30
    mask = 1 / (1 + np.exp(normal(2, batch, rows, columns, deform_groups * 9)))
    kernel = normal(3, 3, 3, channels // groups, out)
    return normal(0, batch, *size, channels), offsets, kernel, mask, normal(4, batch, rows, columns, out)


@functools.partial(jax.jit, static_argnames=("form", "stride", "groups", "deform_groups"))
def result_and_gradients(x, offsets, kernel, mask, g, form, **static):
    function = functools.partial(deform_conv2d, form=form, **static)
    y, pull_back = jax.vjp(function, x, offsets, kernel, mask)
    return y, *pull_back(g)


def assert_near(found, expected, tolerance):
    """Compares arrays with a tolerance relative to the largest expected number."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize(
    "static",
    [
        {},
        {"groups": 4},
        {"stride": 2, "groups": 2, "deform_groups": 4},
        {"deform_groups": 2, "size": (5, 7)},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_both_forms_are_equal(static, masked):
    x, offsets, kernel, mask, g = make_inputs(8, 12, **static)
    static = {name: value for name, value in static.items() if name != "size"}
    with jax.enable_x64(True):
        inputs = x, offsets, kernel, mask if masked else None, g
        found, expected = (
            result_and_gradients(*inputs, form=form, **static) for form in ("products", "gathers")
        )
        assert np.all(np.asarray(found[2])[:, 1, :6] == 0)  # far outside
        assert_near(found, expected, 1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 3e-6), (jnp.bfloat16, 0.01)])
def test_lower_precisions_are_close_to_float64(dtype, tolerance):
    """With 256 channels in groups of 64 there are several tiles, and several groups in each."""
    inputs = [jnp.asarray(a, dtype) for a in make_inputs(256, 8, groups=4, batch=1)]
    found = result_and_gradients(*inputs, form="products", groups=4)
    assert all(a.dtype == dtype for a in found)
    with jax.enable_x64(True):
        exact = [jnp.asarray(a, jnp.float64) for a in inputs]
        assert_near(found, result_and_gradients(*exact, form="gathers", groups=4), tolerance)


@pytest.mark.parametrize("form", ["gathers", "products"])
def test_points_are_summed_in_float32(form):
    """In bfloat16, 256 + 1 would be 256."""
    kernel = jnp.ones((3, 3, 1, 1), jnp.bfloat16).at[0, 0].set(256)
    x, offsets = jnp.ones((1, 3, 3, 1), jnp.bfloat16), jnp.zeros((1, 3, 3, 18), jnp.bfloat16)
    assert deform_conv2d(x, offsets, kernel, form=form)[0, 1, 1, 0] == 264


@pytest.mark.parametrize(("platform", "gathers"), [("tpu", False), ("cpu", True), ("cuda", True)])
def test_each_platform_has_its_form(platform, gathers):
    inputs = [jax.ShapeDtypeStruct(np.shape(a), jnp.float32) for a in make_inputs(8, 8)]
    lowered = result_and_gradients.trace(*inputs, form=None).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.gather" in lowered) == ("stablehlo.scatter" in lowered) == gathers


def test_devices_exchange_no_images():
    """Devices only agree on where windows begin and end, and sum the gradient of the kernel once."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    inputs = make_inputs(8, 8, groups=2, batch=8, size=(5, 7))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    shardings = split, split, whole, split, split
    apart = [
        jax.device_put(jnp.asarray(a, jnp.float32), sharding)
        for a, sharding in zip(inputs, shardings, strict=True)
    ]
    compiled = result_and_gradients.lower(*apart, form="products", groups=2).compile()
    text = compiled.as_text()
    assert not re.search("all-gather|all-to-all|collective-permute", text)
    assert "all-reduce(" in text
    assert "all-reduce(" not in text[: text.index("\nENTRY ")]  # nor in a loop
    found = compiled(*apart)
    assert [a.sharding.spec for a in found] == [split.spec, split.spec, split.spec, whole.spec, split.spec]
    assert_near(found, result_and_gradients(*map(jnp.float32, inputs), form="products", groups=2), 1e-6)
