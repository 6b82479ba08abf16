import contextlib
import time
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from gfl_jax.training import stopwatch
from gfl_jax.training.stopwatch import PARTS, Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A stopwatch whose time passes only by `clock.pass_time`, and whose steps last until `end_step`."""
    now = [100.0]
    no_thread = lambda *_, **__: SimpleNamespace(start=lambda: None)  # noqa: E731
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(stopwatch, "threading", SimpleNamespace(Thread=no_thread))
    clock = Stopwatch()
    clock.pass_time = lambda seconds: now.__setitem__(0, now[0] + seconds)
    clock.end_step = lambda: setattr(clock._work, "end", now[0])
    return clock


def seconds(**parts):
    return {**dict.fromkeys(PARTS, 0.0), **parts}


def test_time_outside_other_parts_counts_as_step(clock):
    with clock.measure("input"):
        clock.pass_time(1)
    clock.pass_time(2)
    with clock.measure("checkpoint"):
        clock.pass_time(4)
    assert clock.lap() == seconds(input=1, step=2, checkpoint=4)
    clock.pass_time(1)
    assert clock.lap() == seconds(step=1)


def test_nested_parts_and_a_lap_within_a_part(clock):
    with clock.measure("evaluation"):
        clock.pass_time(1)
        with clock.measure("checkpoint"):
            clock.pass_time(2)
        clock.pass_time(4)
        assert clock.lap() == seconds(evaluation=5, checkpoint=2)
        clock.pass_time(8)
    assert clock.lap() == seconds(evaluation=8)


def test_a_part_ends_with_an_exception(clock):
    with contextlib.suppress(ValueError), clock.measure("input"):
        clock.pass_time(1)
        raise ValueError
    clock.pass_time(2)
    assert clock.lap() == seconds(input=1, step=2)


def test_input_counts_only_while_the_device_is_idle(clock):
    clock.step_started(jnp.zeros(()))
    with clock.measure("input"):  # all of it during the step
        clock.pass_time(1)
    assert clock.lap() == seconds(step=1)
    with clock.measure("input"):
        clock.pass_time(2)
        clock.end_step()
        clock.pass_time(4)
    assert clock.lap() == seconds(step=2, input=4)
    with clock.measure("input"):
        clock.pass_time(8)
    assert clock.lap() == seconds(input=8)


def test_the_end_of_the_previous_step_does_not_end_the_current_one(clock):
    clock.step_started(jnp.zeros(()))
    before = clock._work
    clock.step_started(jnp.zeros(()))
    before.end = stopwatch.time.monotonic()
    with clock.measure("input"):
        clock.pass_time(1)
    assert clock.lap() == seconds(step=1)


def test_a_real_step_ends_by_itself():
    clock = Stopwatch()
    clock.step_started({"loss": jnp.ones(3) + 1})
    end = time.monotonic() + 60
    while not clock.lap()["input"]:
        assert time.monotonic() < end
        with clock.measure("input"):
            time.sleep(0.01)
