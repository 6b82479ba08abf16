"""Ctrl-C and SIGTERM as a wish to stop after the step or batch, not as an exception in its middle."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

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
        """Whether to stop between two steps, as in an evaluation; several processes do so at steps alone."""
        if self._noted and jax.process_count() == 1:
            self.status = STATUS[signal.Signals(self._noted)]
        return self.status != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        self._restore()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
