"""Progress bars: one for work of known length, and one for bytes."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import rich
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn, track

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """Yields the same items and shows a progress bar, which disappears at the end; only on terminals."""
    return track(items, escape(what), total=total, transient=True, disable=not rich.get_console().is_terminal)


@contextlib.contextmanager
def byte_progress(what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar of bytes during a `with` block; yields a function that adds bytes to it.

    Args:
      what: label before the bar.
      total: number of bytes; None: unknown.
      done: number of bytes at the start.
    """
    console = rich.get_console()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(what), total=total, completed=done)
        yield lambda count: bar.advance(task, count)
