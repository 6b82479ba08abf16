"""Turns Ctrl-C and SIGTERM into a request to stop after the current step or batch."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import FrameType
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from gfl_jax.parallel.agreement import from_first, is_first
from gfl_jax.parallel.distributed import stop_requested

T = TypeVar("T")

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 plus the number of the signal, as in shells


class StopRequest:
    """A context that notes the first SIGINT or SIGTERM. A second one acts as usual.

    With several processes, jax handles SIGTERM: it tells all processes when one receives it, and finds a
    step at which all can stop. No step waits for that. Ctrl-C is forwarded as SIGTERM.

    Attributes:
      status: the exit status of a run that was stopped; 0 if it was not.
    """

    def __init__(self) -> None:
        self.status = 0
        self._noted = 0
        self._old: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM)
        self._old = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def at(self, step: int) -> bool:
        """Returns whether to stop after this step. All processes must call it at every step.

        All of them get the same answer at the same step. The argument must be the number of the step: Orbax
        also passes that number to jax, and jax misses the step to stop at if the numbers decrease.
        """
        if jax.process_count() > 1:
            if multihost_utils.reached_preemption_sync_point(step):
                self.status = STATUS[signal.SIGTERM]
        else:
            self.now()
        return self.status != 0

    def now(self) -> bool:
        """Returns whether to stop now, between two steps, such as in an evaluation.

        All processes must call it. Process 0 decides for all of them. Unlike `at`, this communicates.
        """
        if jax.process_count() > 1:
            if from_first(is_first() and stop_requested()):
                self.status = STATUS[signal.SIGTERM]
        elif self._noted:
            self.status = STATUS[signal.Signals(self._noted)]
        return self.status != 0

    def run_unless_stopped(self, work: Callable[[], T]) -> T | None:
        """Runs `work` on process 0, and returns its result on all processes.

        Returns None if the run is asked to stop before the work ends. The work then continues in its own
        thread until the process ends. It works on numpy arrays. Its result must be serializable as JSON.
        """
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        if is_first():
            threading.Thread(target=run, daemon=True).start()
        while not from_first(is_first() and bool(wait([result], timeout=0.5).done)):
            if self.now():
                return None
        return from_first(result.result() if is_first() else None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        self._restore()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
