"""The classes of a data set or of a trained detector; classes are matched by name.

A run stores the classes of its detector in its work directory at the start. Later data sets are matched with
them by name, so the order of the classes does not matter.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from etils.epath import Path

from gfl_jax.errors import UserError
from gfl_jax.files import read_file, write_file
from gfl_jax.paths import absolute

FILE = "categories.json"

Id = int | str  # the id of an image or a category, exactly as in its COCO file


class Categories(NamedTuple):
    """Names of the classes, and their category ids in COCO results, both in the order of the labels."""

    names: tuple[str, ...]
    ids: tuple[Id, ...]


def write_categories(workdir: Path, categories: Categories) -> None:
    """Writes categories into a work directory."""
    entries = [{"id": id, "name": name} for name, id in zip(*categories, strict=True)]
    write_file(workdir / FILE, json.dumps(entries, indent=1))


def read_categories(path: Path) -> Categories:
    """Reads the categories of a work directory, or of the work directory that contains a checkpoint.

    Args:
      path: a work directory, one of its checkpoint folders, or a checkpoint.

    Raises:
      UserError: the file of categories is missing or damaged.
    """
    file = _categories_file(path)
    try:
        entries = json.loads(read_file(file))
        names, ids = tuple(e["name"] for e in entries), tuple(e["id"] for e in entries)
        if not names or len({*names}) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("it must list categories with distinct names")
        if len({*ids}) < len(ids) or not all(isinstance(id, Id) for id in ids):
            raise ValueError("it must list categories with distinct ids")
        return Categories(names, ids)
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); name a work directory of `train`") from error


def has_categories(path: Path) -> bool:
    """Whether the file that `read_categories` reads exists."""
    return _categories_file(path).is_file()


def difference_of_classes(own: Sequence[str], other: Sequence[str]) -> str:
    """Describes how `other` differs from `own`; "" if both have the same names."""
    parts = []
    for text, names in (
        ("lacks {}", [name for name in own if name not in set(other)]),
        ("has {} as well", [name for name in other if name not in set(own)]),
    ):
        if names:
            parts.append(text.format(listed(names)))
    return " and ".join(parts)


def listed(names: Sequence[object], most: int = 5) -> str:
    """Quotes the first `most` names and says how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _categories_file(path: Path) -> Path:
    """The file in the work directory; `path` may also be `best`, `checkpoints` or a step folder in them."""
    folder = absolute(path)
    if folder.name.isdigit() and not (folder / FILE).is_file():
        folder = folder.parent
    if folder.name in ("best", "checkpoints") and not (folder / FILE).is_file():
        folder = folder.parent
    return folder / FILE
