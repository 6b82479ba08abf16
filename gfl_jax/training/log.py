"""Logs the numbers of a run to metrics.jsonl, TensorBoard and the terminal."""

import logging
import tempfile
import time
from typing import Any

import jax
import rich
from etils.epath import Path
from rich.console import Console
from tensorboardX import SummaryWriter

from gfl_jax.config import Loader
from gfl_jax.files import copy_files
from gfl_jax.parallel.agreement import is_first
from gfl_jax.paths import is_remote
from gfl_jax.training.bottleneck import input_share, input_warning
from gfl_jax.training.metrics_file import MetricsFile, Row
from gfl_jax.training.stopwatch import PARTS, Stopwatch
from gfl_jax.training.terminal import Terminal

# Processes other than the first are quiet except for this warning: only they know that their input is slow.
_LOGGER = logging.getLogger(__name__)
_LOGGER.setLevel(logging.WARNING)

# Two runs of one configuration may differ only in these columns of metrics.jsonl. The "time/..." columns
# divide the time since the previous row. Their sum since this start of the run is "seconds".
TIME_COLUMNS = ("images_per_second", "seconds", *(f"time/{part}" for part in PARTS))


SECONDS_BETWEEN_COPIES = 60.0  # to a bucket, unless a checkpoint is saved earlier


class RunLog:
    """The log of a run that starts or resumes at `step`. Only the first process writes and prints.

    `clock` measures where the time goes. Each row has the times since the previous row.
    """

    def __init__(self, workdir: Path, step: int, total_steps: int, loader: Loader, log_every: int):
        first = is_first()
        self._total_steps, self._loader, self._log_every = total_steps, loader, log_every
        self._file = MetricsFile(workdir / "metrics.jsonl", step, write=first)
        self._events = workdir / "tensorboard"
        # A bucket gets copies of local files: tensorboardX's bucket writer fails if two threads flush.
        self._here = tempfile.TemporaryDirectory() if first and is_remote(workdir) else None
        folder = self._here.name if self._here else str(self._events)
        self._board = SummaryWriter(folder, purge_step=step + 1, write_to_disk=first)
        self._due = time.monotonic() + SECONDS_BETWEEN_COPIES
        self._terminal = Terminal(total_steps, step, rich.get_console() if first else Console(quiet=True))
        self._seconds, self._row_step = 0.0, step
        self._warm = self._warned = False
        self.clock = Stopwatch()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.close()
        self.flush()
        self._board.close()
        if self._here:
            self._here.cleanup()

    def flush(self) -> None:
        """Waits until all numbers are in storage. Must be called before the checkpoint of their step."""
        self._file.flush()
        if self._here:
            self._board.flush()
            copy_files(Path(self._here.name), self._events)
        self._due = time.monotonic() + SECONDS_BETWEEN_COPIES

    def training(self, step: int, metrics: dict[str, Any]) -> None:
        """Logs the scalars of a training step with all digits, or only moves the progress bar."""
        if not self.has_row(step):
            self._terminal.advance(step)
            return
        numbers = {name: float(value) for name, value in metrics.items()}
        steps, seconds = range(self._row_step + 1, step + 1), self.clock.lap()
        seconds_per_step = (seconds["input"] + seconds["step"]) / len(steps)
        speed = self._loader.batch_size / seconds_per_step
        self._write(step, {**numbers, "images_per_second": round(speed, 2)}, seconds)
        # The first interval includes compilation, so it does not predict the others.
        seconds_left = seconds_per_step * (self._total_steps - step) if self._warm else None
        self._terminal.show(step, numbers, speed, input_share(seconds), seconds_left)
        if self._warm and not self._warned:
            self._warn(input_warning(seconds, steps, self._loader))
        self._warm = True

    def has_row(self, step: int) -> bool:
        """Returns whether a training step gets a row."""
        return step in (1, self._total_steps) or step % self._log_every == 0

    def evaluation(self, step: int, scalars: dict[str, float]) -> None:
        """Logs the metrics of an evaluation."""
        numbers = {f"eval/{name}": float(value) for name, value in scalars.items()}
        self._write(step, numbers, self.clock.lap())
        self.say(step, "  ".join(f"{name} {100 * scalars[name]:.1f}" for name in ("AP", "AP50", "AP75")))

    def evaluation_at(self, step: int) -> dict[str, float] | None:
        """Returns the metrics of the evaluation at a step, also from before the run was resumed."""
        for row in reversed(self._file.rows):
            if row["step"] == step and "eval/AP" in row:
                return {name[5:]: value for name, value in row.items() if name.startswith("eval/")}
        return None

    @property
    def rows(self) -> list[Row]:
        """All rows so far, including those from before the run was resumed."""
        return self._file.rows

    def say(self, step: int, text: str) -> None:
        """Prints a line."""
        self._terminal.say(step, text)

    def _write(self, step: int, numbers: dict[str, float], seconds: dict[str, float]) -> None:
        numbers = numbers | {f"time/{part}": round(value, 6) for part, value in seconds.items()}
        self._seconds += sum(seconds.values())
        self._file.append({"step": step, **numbers, "seconds": round(self._seconds, 3)})
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        self._row_step = step
        if self._here and time.monotonic() >= self._due:
            self.flush()

    def _warn(self, text: str | None) -> None:
        """Logs the warning once. Each process watches its own input."""
        if text is not None:
            count = jax.process_count()
            _LOGGER.warning("%s%s", f"process {jax.process_index()} of {count}: " if count > 1 else "", text)
            self._warned = True
