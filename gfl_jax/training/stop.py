"""Ctrl-C and SIGTERM as a wish to stop after the step, not as an exception in its middle."""

import signal
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """A context in which the first SIGINT or SIGTERM is noted; a second one acts as usual."""

    def __init__(self) -> None:
        self._noted = False
        self._old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> "StopRequest":
        for number in self._old:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def __bool__(self) -> bool:
        """Whether any process of the run was asked to stop; all get the same answer."""
        if jax.process_count() == 1:
            return self._noted
        return bool(multihost_utils.process_allgather(np.array(self._noted)).any())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
