"""How far work of known length is, for a person who waits for it."""

from collections.abc import Iterable
from typing import TypeVar

import rich
from rich.markup import escape
from rich.progress import track

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The same items, with a bar while they come; only on a terminal, and gone afterwards."""
    return track(items, escape(what), total=total, transient=True, disable=not rich.get_console().is_terminal)
