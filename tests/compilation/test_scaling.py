"""The model of step times against values by hand, and what must hold for any numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.compilation.chips import CHIPS
from gfl_jax.compilation.scaling import (
    PICTURE_BYTES,
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
    within = 2 * 7 / 8 * 128e6 / 450e9
    between = 2 * 3 / 4 * (128e6 / 8) / 50e9
    assert all_reduce_seconds(128e6, CHIPS["H100"], 8) == pytest.approx(within)
    assert all_reduce_seconds(128e6, CHIPS["H100"], 32) == pytest.approx(within + between)


def test_a_pod_has_rings_and_a_slice_of_it_half_the_rate():
    assert all_reduce_seconds(128e6, CHIPS["v5e"], 256) == pytest.approx(2 * 255 / 256 * 128e6 / 200e9)
    assert all_reduce_seconds(128e6, CHIPS["v5e"], 64) == pytest.approx(2 * 63 / 64 * 128e6 / 100e9)


def test_the_terms_and_which_binds():
    terms = step_time(WORK, CHIPS["v5e"], 256)
    assert terms.compute == pytest.approx(5e12 / 197e12)
    assert terms.memory == pytest.approx(100e9 / 819e9)
    assert terms.bound == "memory"
    assert terms.best == terms.memory
    assert terms.worst == pytest.approx(terms.memory + terms.network)


def test_the_input_of_a_host():
    found = host_input(WORK, CHIPS["H100"], step_seconds=0.05)
    assert found.pictures == pytest.approx(4 * 8 / 0.05)
    assert found.workers == math.ceil(640 * 3.8e-3) == 3
    assert found.bytes == pytest.approx(640 * PICTURE_BYTES)


def test_efficiency_by_hand():
    network = 2 * 255 / 256 * 128e6 / 200e9
    assert efficiency(WORK, CHIPS["v5e"], 256) == pytest.approx(1 / (1 + network / (100e9 / 819e9)))
    assert least_efficiency(WORK, CHIPS["v5e"], 256) == pytest.approx(1 / (1 + network / (5e12 / 197e12)))


@given(works, chips, counts, st.floats(0.01, 1))
def test_no_chip_is_less_efficient_than_one_that_only_computes(work, chip, count, share):
    slower = chip._replace(flops=chip.flops * share)
    least, found = least_efficiency(work, chip, count), efficiency(work, slower, count)
    assert 0 < least <= found + 1e-12 <= 1 + 2e-12
    if count == 1:
        assert least == found == 1
