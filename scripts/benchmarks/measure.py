"""Timing cases against each other: round after round, so that a busy moment hits all of them."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

Say = Callable[[str], None]  # shows what is going on

MIN_SECONDS = 0.1  # of a round


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to time."""

    part: str  # of the benchmark
    name: str
    size: tuple[int, int]  # (height, width) of the pictures
    images: int  # that a call works on
    run: Callable[[], Any]  # one call; the arrays that it returns are waited for
    against: str | None = None  # the name of the case that this one is compared with
    compiled: jax.stages.Compiled | None = None  # what `run` calls, for its FLOPs and memory
    prepare: Callable[[], Any] | None = None  # before each round, not timed
    calls: int | None = None  # in a round; None: as many as take MIN_SECONDS
    workers: int | None = None  # processes that share the work
    peak: str | None = None  # the name of the case whose GFLOP/s stand for the machine's peak


@dataclasses.dataclass(frozen=True)
class Row:
    """What came out for a case. FLOPs and bytes are the compiler's figures for one call."""

    case: Case
    seconds: tuple[float, ...]  # of a call, in each round
    peak_bytes: int | None  # the most in use on the device until the case was warm

    @property
    def images_per_second(self) -> float:
        """At the median time."""
        return self.case.images / statistics.median(self.seconds)

    @property
    def flops(self) -> float | None:
        """Floating point operations."""
        costs: Any = self.case.compiled.cost_analysis() if self.case.compiled else None
        return costs.get("flops") if costs else None

    @property
    def temporary_bytes(self) -> int | None:
        """What is needed besides arguments and results."""
        memory: Any = self.case.compiled.memory_analysis() if self.case.compiled else None
        return memory.temp_size_in_bytes if memory else None

    @property
    def total_bytes(self) -> int | None:
        """All that is needed; an argument that is given over to a result counts once."""
        memory: Any = self.case.compiled.memory_analysis() if self.case.compiled else None
        if not memory:
            return None
        arguments_and_results = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return memory.temp_size_in_bytes + arguments_and_results - memory.alias_size_in_bytes


def measure(cases: Sequence[Case], repeats: int, say: Say) -> list[Row]:
    """Times the cases in turn, `repeats` times, after a warm-up."""
    calls, peaks = [], []
    for case in cases:
        say(f"{case.part}: warming up {case.name}")
        _seconds(case, 1)
        calls.append(case.calls or math.ceil(MIN_SECONDS / _seconds(case, 1)))
        peaks.append(_peak_bytes() if case.compiled else None)
    rounds = []
    for done in range(repeats):
        say(f"{' and '.join(dict.fromkeys(case.part for case in cases))}: round {done + 1} of {repeats}")
        rounds.append([_seconds(case, count) for case, count in zip(cases, calls, strict=True)])
    return [Row(*row) for row in zip(cases, zip(*rounds, strict=True), peaks, strict=True)]


def _seconds(case: Case, calls: int) -> float:
    """The mean time of a call."""
    if case.prepare:
        case.prepare()
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(case.run())
    return (time.perf_counter() - start) / calls


def _peak_bytes() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
