"""The model of step times against values by hand, and what must hold for any numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.compilation.chips import CHIPS
from gfl_jax.compilation.scaling import (
    Work,
    all_reduce_seconds,
    efficiency,
    host_input,
    least_efficiency,
    ring_seconds,
    step_time,
)

WORK = Work(pictures=4, flops=5e12, bytes_accessed=100e9, reduced_bytes=128e6)

works = st.builds(
    Work,
    pictures=st.integers(1, 64),
    flops=st.floats(1e9, 1e15),
    bytes_accessed=st.floats(1e6, 1e12),
    reduced_bytes=st.floats(1, 1e10),
)
chips = st.sampled_from(list(CHIPS.values()))
counts = st.integers(0, 10).map(lambda power: 2**power)


def test_a_ring_by_hand():
    # Four members of 100 bytes: each sends three quarters to sum its part, and three to share it.
    assert ring_seconds(100, 4, 10) == pytest.approx(15)
    assert ring_seconds(100, 1, 10) == 0


def test_h100_hosts_reduce_within_first_and_share_a_part_each():
    # Within a host: 128 MB, 7/8 of it twice, at 450 GB/s. Between four: 16 MB, 3/4 of it twice, at 50 GB/s.
    assert all_reduce_seconds(128e6, CHIPS["H100"], 8) == pytest.approx(497.8e-6, rel=1e-4)
    assert all_reduce_seconds(128e6, CHIPS["H100"], 32) == pytest.approx(497.8e-6 + 480e-6, rel=1e-4)


def test_a_pod_has_rings_and_a_slice_of_it_half_the_rate():
    # Nearly 256 MB, at 200 GB/s and at half of it.
    assert all_reduce_seconds(128e6, CHIPS["v5e"], 256) == pytest.approx(1.275e-3)
    assert all_reduce_seconds(128e6, CHIPS["v5e"], 64) == pytest.approx(2.52e-3)


def test_the_terms_and_which_binds():
    terms = step_time(WORK, CHIPS["v5e"], 256)
    assert terms == pytest.approx((25.38e-3, 122.10e-3, 1.275e-3), rel=1e-3)  # 197 TFLOP/s, 819 GB/s
    assert terms.bound == "memory"
    assert terms.best == pytest.approx(122.10e-3, rel=1e-3)
    assert terms.worst == pytest.approx(123.38e-3, rel=1e-3)


def test_the_input_of_a_host():
    """Eight H100s, four pictures each, in 50 ms: 640 pictures a second, each 3.8 ms of a core and 152 kB."""
    found = host_input(WORK, CHIPS["H100"], step_seconds=0.05)
    assert found.pictures == pytest.approx(640)
    assert found.workers == 3
    assert found.bytes == pytest.approx(97.4e6, rel=1e-3)


def test_efficiency_by_hand():
    assert efficiency(WORK, CHIPS["v5e"], 256) == pytest.approx(0.98967, abs=1e-5)
    assert least_efficiency(WORK, CHIPS["v5e"], 256) == pytest.approx(0.95217, abs=1e-5)


@given(works, chips, counts, st.floats(0.01, 1))
def test_no_chip_is_less_efficient_than_one_that_only_computes(work, chip, count, share):
    slower = chip._replace(flops=chip.flops * share)
    least, found = least_efficiency(work, chip, count), efficiency(work, slower, count)
    assert 0 < least <= found + 1e-12 <= 1 + 2e-12
    if count == 1:
        assert least == found == 1
