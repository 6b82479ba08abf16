"""The categories of a trained detector, kept in its work directory."""

import json
from pathlib import Path
from typing import NamedTuple

from gfl_jax.errors import UserError
from gfl_jax.files import write_file

FILE = "categories.json"


class Categories(NamedTuple):
    """By label: the names, and the ids that COCO results are written with."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def write_categories(workdir: Path, categories: Categories) -> None:
    """Writes them into a work directory."""
    entries = [{"id": id, "name": name} for name, id in zip(*categories, strict=True)]
    write_file(workdir / FILE, json.dumps(entries, indent=1))


def read_categories(workdir: Path) -> Categories:
    """Reads them.

    Raises:
      UserError: they are not there.
    """
    path = workdir / FILE
    try:
        entries = json.loads(path.read_text())
        return Categories(tuple(e["name"] for e in entries), tuple(int(e["id"]) for e in entries))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name a work directory of `train`") from error
