"""The classes of a data set and of a trained detector, which are the same where their names are.

A detector keeps its classes in its work directory from the start. Whatever meets it later is matched
with them by name: another order is no other meaning.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from etils.epath import Path

from gfl_jax.errors import UserError
from gfl_jax.files import read_file, write_file
from gfl_jax.paths import absolute

FILE = "categories.json"

Id = int | str  # of an image or a category, exactly as a COCO file has it


class Categories(NamedTuple):
    """By label: the names, and the ids that COCO results are written with."""

    names: tuple[str, ...]
    ids: tuple[Id, ...]


def write_categories(workdir: Path, categories: Categories) -> None:
    """Writes them into a work directory."""
    entries = [{"id": id, "name": name} for name, id in zip(*categories, strict=True)]
    write_file(workdir / FILE, json.dumps(entries, indent=1))


def read_categories(path: Path) -> Categories:
    """Reads those of a work directory, or of the work directory that a checkpoint lies in.

    Args:
      path: a work directory, one of its folders of checkpoints, or a checkpoint.

    Raises:
      UserError: they are not there, or are damaged.
    """
    file = _find(path)
    try:
        entries = json.loads(read_file(file))
        names, ids = tuple(e["name"] for e in entries), tuple(e["id"] for e in entries)
        if not names or len({*names}) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("it must list categories of different names")
        if len({*ids}) < len(ids) or not all(isinstance(id, Id) for id in ids):
            raise ValueError("it must list categories of different ids")
        return Categories(names, ids)
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); name a work directory of `train`") from error


def has_categories(path: Path) -> bool:
    """Whether `read_categories` finds a file."""
    return _find(path).is_file()


def difference_of_classes(own: Sequence[str], other: Sequence[str]) -> str:
    """In words: what one list of classes has and the other has not; "" if they name the same."""
    parts = []
    for text, names in (
        ("lacks {}", [name for name in own if name not in set(other)]),
        ("has {} as well", [name for name in other if name not in set(own)]),
    ):
        if names:
            parts.append(text.format(listed(names)))
    return " and ".join(parts)


def listed(names: Sequence[object], most: int = 5) -> str:
    """The first few of some names, quoted, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _find(path: Path) -> Path:
    """The file of a work directory, also from its folders `best` and `checkpoints` and from their steps."""
    folder = absolute(path)
    if folder.name.isdigit() and not (folder / FILE).is_file():
        folder = folder.parent
    if folder.name in ("best", "checkpoints") and not (folder / FILE).is_file():
        folder = folder.parent
    return folder / FILE
