"""The numbers of a run to three places: metrics.jsonl, TensorBoard and the terminal."""

import time
from pathlib import Path
from typing import Any

import jax
import rich
from rich.console import Console
from tensorboardX import SummaryWriter

from gfl_jax.training.metrics_file import MetricsFile, Row
from gfl_jax.training.terminal import Terminal

# The only columns of metrics.jsonl in which two runs of one configuration may differ.
TIME_COLUMNS = ("images_per_second", "seconds")


class RunLog:
    """The log of a run that goes on from `step`. Only the first process writes and prints."""

    def __init__(self, workdir: Path, step: int, total_steps: int, batch_size: int, log_every: int):
        first = jax.process_index() == 0
        self._total_steps, self._batch_size, self._log_every = total_steps, batch_size, log_every
        self._file = MetricsFile(workdir / "metrics.jsonl", step, write=first)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1, write_to_disk=first)
        self._terminal = Terminal(total_steps, step, rich.get_console() if first else Console(quiet=True))
        self._start, self._warm = time.monotonic(), False
        self.restart_clock(step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.close()
        self._board.close()

    def restart_clock(self, step: int) -> None:
        """Measures the speed from this step on: after work that is no training step."""
        self._clock, self._clock_step = time.monotonic(), step

    def training(self, step: int, metrics: dict[str, Any]) -> None:
        """Logs the scalars of a training step, exactly, where its turn has come."""
        if step not in (1, self._total_steps) and step % self._log_every:
            self._terminal.advance(step)
            return
        numbers = {name: float(value) for name, value in metrics.items()}
        seconds_per_step = (time.monotonic() - self._clock) / max(step - self._clock_step, 1)
        speed = self._batch_size / seconds_per_step
        self._write(step, {**numbers, "images_per_second": round(speed, 2)})
        # The first interval is no measure of the others: it has the compilation in it.
        seconds_left = seconds_per_step * (self._total_steps - step) if self._warm else None
        self._terminal.show(step, numbers, speed, seconds_left)
        self._warm = True
        self.restart_clock(step)

    def evaluation(self, step: int, scalars: dict[str, float]) -> None:
        """Logs the metrics of an evaluation."""
        self._write(step, {f"eval/{name}": float(value) for name, value in scalars.items()})
        self.say(step, "  ".join(f"{name} {scalars[name]:.4f}" for name in ("AP", "AP50", "AP75")))

    def evaluation_at(self, step: int) -> dict[str, float] | None:
        """The metrics of the evaluation at a step, also of one before the run was resumed."""
        for row in reversed(self._file.rows):
            if row["step"] == step and "eval/AP" in row:
                return {name[5:]: value for name, value in row.items() if name.startswith("eval/")}
        return None

    @property
    def rows(self) -> list[Row]:
        """All rows so far, those of the run before it was resumed too."""
        return self._file.rows

    def say(self, step: int, text: str) -> None:
        """Prints a line."""
        self._terminal.say(step, text)

    def _write(self, step: int, numbers: dict[str, float]) -> None:
        self._file.append({"step": step, **numbers, "seconds": round(time.monotonic() - self._start, 3)})
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
