"""Ctrl-C and SIGTERM as a wish to stop after the step or batch, not as an exception in its middle."""

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
from gfl_jax.parallel.distributed import stop_asked_for

T = TypeVar("T")

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 and the number of the signal, as shells have it


class StopRequest:
    """A context in which the first SIGINT or SIGTERM is noted; a second one acts as usual.

    In a run of several processes SIGTERM is left to jax, which tells all of them when one gets it and finds
    the step at which all can stop, without a step waiting for that. Ctrl-C is handed on as SIGTERM.

    Attributes:
      status: the exit status of a run that stopped here; 0 if it did not.
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
        """Whether to stop before this step's successor; to be asked at every step, in all processes.

        It says the same in all of them, at the same step. No other number may stand for the step: Orbax asks
        jax for it too, and numbers that go back make jax miss the place to stop.
        """
        if jax.process_count() > 1:
            if multihost_utils.reached_preemption_sync_point(step):
                self.status = STATUS[signal.SIGTERM]
        else:
            self.now()
        return self.status != 0

    def now(self) -> bool:
        """Whether to stop between two steps, as in an evaluation; to be asked by all processes alike.

        It says the same in all of them, since process 0 decides. That costs an exchange, where `at` has none.
        """
        if jax.process_count() > 1:
            if from_first(is_first() and stop_asked_for()):
                self.status = STATUS[signal.SIGTERM]
        elif self._noted:
            self.status = STATUS[signal.Signals(self._noted)]
        return self.status != 0

    def unless_asked(self, work: Callable[[], T]) -> T | None:
        """What process 0 makes of numpy arrays, on all processes; None if the run is asked to stop before.

        The work goes on in a thread of its own then, until the process ends. JSON must hold its result.
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
