"""Feature maps with pairs of rows give the same results as single rows."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.models.conv_gradient import conv2d
from gfl_jax.models.convolution import Conv
from gfl_jax.models.row_pairs import pair_kernel, split_pairs
from gfl_jax.pixel_blocks import _above_by_convolution, _above_by_slices
from gfl_jax.strips import split, whole


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def paired(x):
    batch, rows, columns, channels = x.shape
    return (
        x.reshape(batch, rows // 2, 2, columns, channels)
        .swapaxes(2, 3)
        .reshape(batch, rows // 2, columns, -1)
    )


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_pairs_round_trip(batch, pairs, columns, channels):
    x = numbers(batch, 2 * pairs, columns, channels)
    np.testing.assert_array_equal(split_pairs(paired(x)), x)
    np.testing.assert_array_equal(paired(x)[:, 0, 0, :channels], x[:, 0, 0])


@pytest.mark.parametrize("strips", [None, 1, 2])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2)])
def test_convolutions(size, stride, strips):
    x, kernel, shift = numbers(2, 8, 12, 3), numbers(size, size, 3, 4), numbers(4)
    expected = conv2d(x, kernel, shift, stride, 1)
    conv = Conv(4, size, stride, use_bias=False, pairs=True, images=strips and 2)
    given = paired(x) if strips is None else split(paired(x), strips)
    found = conv.apply({"params": {"kernel": kernel}}, given, jnp.ones(4), shift)
    found = found if strips is None else whole(found, 2)
    found = split_pairs(found) if stride == 1 else found
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_of_pairs_reads_no_more_pairs_than_it_must():
    shapes = {
        (size, stride): pair_kernel(numbers(size, size, 3, 4), stride) for size in (1, 3) for stride in (1, 2)
    }
    assert {key: (kernel.shape, padding) for key, (kernel, padding) in shapes.items()} == {
        (1, 1): ((1, 1, 6, 8), (0, 0)),
        (1, 2): ((1, 1, 6, 4), (0, 0)),
        (3, 1): ((3, 3, 6, 8), (1, 1)),
        (3, 2): ((2, 3, 6, 4), (1, 0)),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_move_up_by_a_convolution_without_rounding(dtype):
    odd = jnp.asarray(numbers(2, 5, 3, 8), dtype)
    expected = _above_by_slices(odd)
    np.testing.assert_array_equal(expected[:, 1:, :, :4], odd[:, :-1, :, 4:])
    np.testing.assert_array_equal(expected[:, 0, :, :4], 0)
    np.testing.assert_array_equal(_above_by_convolution(odd), expected)
