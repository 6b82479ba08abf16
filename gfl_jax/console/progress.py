"""How far work of known length is, for a person who waits for it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import rich
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn, track

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The same items, with a bar while they come; only on a terminal, and gone afterwards."""
    return track(items, escape(what), total=total, transient=True, disable=not rich.get_console().is_terminal)


@contextlib.contextmanager
def byte_progress(what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar of bytes while the block runs; gives a function that is told how many more have come.

    Args:
      what: stands before the bar.
      total: how many there are; None: nobody knows.
      done: how many were there before.
    """
    console = rich.get_console()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(what), total=total, completed=done)
        yield lambda count: bar.advance(task, count)
