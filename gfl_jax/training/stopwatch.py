"""Where the wall time of a run goes: waiting for input, steps, checkpoints, evaluations."""

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

PARTS = ("input", "step", "checkpoint", "evaluation")


@dataclasses.dataclass
class _Work:
    """A step on the device, and when it was done: not yet."""

    end: float = math.inf


class Stopwatch:
    """Divides wall time over `PARTS`: each moment counts once, and what is no other part is "step".

    While the device works on a step, all time is "step", whatever the loop does meanwhile. So "input"
    is not how long batches were waited for, but how long the device was idle because of it: what
    faster input would save.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "step", time.monotonic()
        self._work = _Work(end=-math.inf)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Counts the time of the block as that of a part, and gives it that name in a profile."""
        self._count()
        outer, self._part = self._part, part
        try:
            with jax.profiler.TraceAnnotation(part):
                yield
        finally:
            self._count()
            self._part = outer

    def step_started(self, outputs: Any) -> None:
        """Notes that the device works on a step from now on, until these arrays of it are there."""
        self._work = _Work()
        # A thread, because the moment is of interest in which the loop waits for something else.
        threading.Thread(target=_note_end, args=(self._work, outputs), daemon=True).start()

    def lap(self) -> dict[str, float]:
        """The seconds of each part since the last call, or since the beginning."""
        self._count()
        seconds, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return seconds

    def _count(self) -> None:
        now = time.monotonic()
        idle_from = min(max(self._work.end, self._since), now)
        self._seconds["step"] += idle_from - self._since
        self._seconds[self._part] += now - idle_from
        self._since = now


def _note_end(work: _Work, outputs: Any) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the loop meets the error as well
        jax.block_until_ready(outputs)
    work.end = time.monotonic()
