"""Measures where the wall time of a run goes: input, steps, checkpoints, evaluations."""

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
    """A step on the device, and the time at which it ended (infinite: it still runs)."""

    end: float = math.inf


class Stopwatch:
    """Divides wall time over `PARTS`. Each moment counts once; what is in no other part counts as "step".

    While the device works on a step, all time is "step", whatever the loop does meanwhile. So "input" is
    not how long the loop waited for batches, but how long the device was idle because of that. Faster
    input would save this time.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "step", time.monotonic()
        self._work = _Work(end=-math.inf)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Counts the time of the block for a part, and names the block after the part in a profile."""
        self._count()
        outer, self._part = self._part, part
        try:
            with jax.profiler.TraceAnnotation(part):
                yield
        finally:
            self._count()
            self._part = outer

    def step_started(self, outputs: Any) -> None:
        """Notes that the device works on a step from now until these outputs of it are ready."""
        self._work = _Work()
        # A thread, because the step may end while the loop waits for something else.
        threading.Thread(target=_note_end, args=(self._work, outputs), daemon=True).start()

    def lap(self) -> dict[str, float]:
        """Returns the seconds of each part since the last call, or since the start."""
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
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the loop gets the error too
        jax.block_until_ready(outputs)
    work.end = time.monotonic()
