"""The printed output of a run: a progress bar on a terminal, plain lines elsewhere."""

import datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn


class Terminal:
    """Shows the progress of a run and its latest numbers."""

    def __init__(self, total_steps: int, step: int, console: Console):
        self._console = console
        self._total = total_steps
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=total_steps, completed=step)
            self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(
        self,
        step: int,
        numbers: dict[str, float],
        images_per_second: float,
        input_share: float,
        seconds_left: float | None,
    ) -> None:
        """Shows the numbers of a training step, and the share of the time that was spent on input."""
        parts = [f"{name[5:]} {value:.4f}" for name, value in numbers.items() if name.startswith("loss_")]
        text = (
            f"loss {numbers['loss']:.4f} ({', '.join(parts)})  learning rate {numbers['learning_rate']:.3g}  "
            f"{images_per_second:.1f} images/s  input {input_share:.0%}"
        )
        text += "" if seconds_left is None else f"  {duration(seconds_left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self._line(f"step {step}/{self._total}  {text}")

    def say(self, step: int, text: str) -> None:
        """Prints a line that stays."""
        self._line(f"step {step}/{self._total}  {text}")

    def close(self) -> None:
        """Stops the progress bar."""
        if self._bar is not None:
            self._bar.stop()

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    return str(datetime.timedelta(seconds=round(seconds)))
