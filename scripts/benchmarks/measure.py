"""Times cases against each other, round after round: a busy moment then hits all of them."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

Say = Callable[[str], None]  # shows the progress

MIN_SECONDS = 0.1  # the shortest round


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to time."""

    part: str  # the part of the benchmark
    name: str
    size: tuple[int, int]  # (height, width) of the images
    images: int  # the number of images in a call
    run: Callable[[], Any]  # one call; the time ends when the arrays that it returns are ready
    against: str | None = None  # the name of the case to compare with
    compiled: jax.stages.Compiled | None = None  # what `run` calls, for its FLOPs and memory
    prepare: Callable[[], Any] | None = None  # runs before each round, not timed
    calls: int | None = None  # calls in a round; None: as many as take MIN_SECONDS
    workers: int | None = None  # the number of processes that share the work
    peak: str | None = None  # the name of the case whose GFLOP/s stand for the machine's peak


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of a case. FLOPs and bytes are the compiler's figures for one call."""

    case: Case
    seconds: tuple[float, ...]  # the time of a call in each round
    peak_bytes: int | None  # the peak memory of the device until the case was warmed up

    @property
    def images_per_second(self) -> float:
        """Images per second at the median time."""
        return self.case.images / statistics.median(self.seconds)

    @property
    def flops(self) -> float | None:
        """Floating point operations."""
        costs: Any = self.case.compiled.cost_analysis() if self.case.compiled else None
        return costs.get("flops") if costs else None

    @property
    def temporary_bytes(self) -> int | None:
        """The memory that is needed besides arguments and results."""
        memory: Any = self.case.compiled.memory_analysis() if self.case.compiled else None
        return memory.temp_size_in_bytes if memory else None

    @property
    def total_bytes(self) -> int | None:
        """All memory that is needed. An argument that is donated to a result counts once."""
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
    """Returns the mean time of a call."""
    if case.prepare:
        case.prepare()
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(case.run())
    return (time.perf_counter() - start) / calls


def _peak_bytes() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
