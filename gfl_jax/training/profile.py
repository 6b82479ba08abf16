"""Traces some steps of a run, for TensorBoard and Perfetto."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils.epath import Path

from gfl_jax.errors import UserError
from gfl_jax.files import copy_files
from gfl_jax.parallel.agreement import is_first
from gfl_jax.paths import is_remote


def parse_steps(text: str) -> range:
    """Parses START:STOP as the steps START, ..., STOP - 1. The first step of a run is 1.

    Raises:
      UserError: the text does not have this form, or holds no step.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    if not match:
        raise UserError(f"--profile={text}: must be START:STOP, the numbers of two steps, such as 20:25")
    steps = range(int(match[1]), int(match[2]))
    if not steps or steps.start < 1:
        raise UserError(
            f"--profile={text}: holds no step; START must be at least 1, and STOP greater than START"
        )
    return steps


class Profile:
    """Traces the given steps of a run into a folder, on the first process. A context around the run."""

    def __init__(
        self,
        steps: range | None,
        folder: Path,
        done_steps: int,
        total_steps: int,
        say: Callable[[int, str], None],
    ):
        """Profiles `steps` in a run that resumes after `done_steps`.

        Steps that are done already are left out, for example after a scheduler restarted the run.

        Args:
          steps: from `parse_steps`; None: no steps.
          folder: the folder for TensorBoard. The files are in plugins/profile/TIME/ in it.
          done_steps: the number of steps that were done before this start.
          total_steps: the number of steps of the run.
          say: is called with a step and a line to print.

        Raises:
          UserError: the run ends before the first step.
        """
        if steps is not None and steps.start > total_steps:
            raise UserError(
                f"--profile={steps.start}:{steps.stop}: this run has {total_steps} steps; choose some of them"
            )
        left = range(max(steps.start, done_steps + 1), steps.stop) if steps is not None else range(0)
        if steps is not None and not left:
            say(done_steps, f"no profile: steps {steps.start} to {steps.stop - 1} are already done")
        self._steps = left if is_first() else range(0)
        self._folder, self._say = folder, say
        self._step, self._tracing = done_steps, False
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._stop()

    @contextlib.contextmanager
    def step(self, number: int, before: Any) -> Iterator[None]:
        """Surrounds a step, from the wait for its batch to its start on the device.

        Args:
          number: the number of the step, from 1.
          before: outputs of the previous step. The trace begins when they are ready.
        """
        if self._steps and number == self._steps.start:
            jax.block_until_ready(before)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # traced calls of Python functions hide the rest
            # Perfetto cannot read TensorBoard's file.
            jax.profiler.start_trace(self._local(), create_perfetto_trace=True, profiler_options=options)
            self._tracing = True
        self._step = number
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def started(self, outputs: Any) -> None:
        """Ends the trace if this step is its last one, once the outputs of the step are ready."""
        if self._tracing and self._step + 1 == self._steps.stop:
            jax.block_until_ready(outputs)
            self._stop()

    def _local(self) -> str:
        """Returns a local folder for the profiler, which cannot write to buckets."""
        if not is_remote(self._folder):
            return str(self._folder)
        self._temporary = tempfile.TemporaryDirectory()
        return self._temporary.name

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
        if self._temporary is not None:
            copy_files(Path(self._temporary.name), self._folder)
            self._temporary.cleanup()
        steps = f"steps {self._steps.start} to {self._step}"
        self._say(self._step, f"profile of {steps}, for TensorBoard and Perfetto: {self._folder}")
