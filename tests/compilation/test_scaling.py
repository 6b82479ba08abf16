"""Predicted step times against values computed by hand."""

import pytest

from gfl_jax.compilation.chips import CHIPS
from gfl_jax.compilation.scaling import all_reduce_seconds, host_input, ring_seconds, step_seconds


def test_a_ring():
    # Four members, 100 bytes: each sends three quarters to sum the parts, and three quarters to share them.
    assert ring_seconds(100, 4, 10) == pytest.approx(15)
    assert ring_seconds(100, 1, 10) == 0


def test_h100_hosts_sum_first_inside_and_then_between_hosts():
    # In a host: 7/8 of 128 MB, twice, at 450 GB/s. Between four hosts: 3/4 of 16 MB, twice, at 50 GB/s.
    assert all_reduce_seconds(128e6, CHIPS["H100"], 8) == pytest.approx(497.8e-6, rel=1e-4)
    assert all_reduce_seconds(128e6, CHIPS["H100"], 32) == pytest.approx(497.8e-6 + 480e-6, rel=1e-4)


def test_a_pod_has_the_full_rate_and_a_slice_of_it_half_the_rate():
    # Nearly 256 MB, at 200 GB/s and at half of that.
    assert all_reduce_seconds(128e6, CHIPS["v5e"], 256) == pytest.approx(1.275e-3)
    assert all_reduce_seconds(128e6, CHIPS["v5e"], 64) == pytest.approx(2.52e-3)


def test_a_step_computes_and_then_sends():
    # 150 million cycles at 1.5 GHz.
    assert step_seconds(150e6, 128e6, CHIPS["v5e"], 1) == pytest.approx(0.1)
    assert step_seconds(150e6, 128e6, CHIPS["v5e"], 256) == pytest.approx(0.1 + 1.275e-3)


def test_the_input_of_a_host():
    """Eight H100s, four images each, in 50 ms: 640 images per second, each 3.8 ms of a core and 152 kB."""
    found = host_input(4, 0.05, CHIPS["H100"])
    assert found.images == pytest.approx(640)
    assert found.workers == 3
    assert found.bytes == pytest.approx(97.4e6, rel=1e-3)
