"""Whether a data set is the one that a run began with: by its content, not by its path.

A run keeps what it knew of its data. Later the same content is recognized wherever it lies and in
whatever order it is listed, and is put into the first order, so that a resumed run sees the same batches
to the last bit. Other content is refused with what differs.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float, Int

from gfl_jax.data.annotations import Annotations
from gfl_jax.data.categories import listed
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import read_file, write_file


class Known(NamedTuple):
    """What a run keeps of a data set, in its first order; labels are those of the detector."""

    file_names: np.ndarray  # (images,) texts
    sizes: Int[np.ndarray, "images 2"]
    fingerprints: Int[np.ndarray, "images"]  # of the files; 0 where they are not known
    offsets: Int[np.ndarray, "images+1"]  # image i has the rows offsets[i]:offsets[i + 1]
    boxes: Float[np.ndarray, "boxes 4"]
    labels: Int[np.ndarray, "boxes"]
    is_crowd: Bool[np.ndarray, "boxes"]


def known_of(source: Source) -> Known:
    """What a run keeps of a source."""
    table = source.annotations
    return Known(
        np.array(table.file_names),
        table.sizes,
        table.fingerprints,
        table.offsets,
        table.boxes,
        table.labels,
        table.is_crowd,
    )


def write_known(file: Path, known: Mapping[str, Known]) -> None:
    """Writes what is known of some data sets, by their names."""
    content = io.BytesIO()
    arrays = {f"{name}/{key}": array for name, data in known.items() for key, array in data._asdict().items()}
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_file(file, content.getvalue())


def read_known(file: Path) -> dict[str, Known]:
    """Reads it.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with np.load(io.BytesIO(read_file(file))) as stored:
            names = {name.partition("/")[0] for name in stored.files}
            return {name: Known(*(stored[f"{name}/{key}"] for key in Known._fields)) for name in names}
    except Exception as error:  # numpy and zipfile raise all sorts
        raise UserError(
            f"{file}: cannot be read ({error}), so nobody can tell whether the data are those that the run "
            "began with; if they are, delete the file"
        ) from error


def as_known(source: Source, known: Known, owner: str) -> Source:
    """The source in the order in which its content is known.

    Args:
      source: with the labels of the detector.
      known: what the run began with.
      owner: of what is known, for messages.

    Raises:
      UserError: says in which images the content differs, and how.
    """

    def refuse(what: str) -> UserError:
        return UserError(
            f"{source.name}: is not what {owner} began with: {what}; give the data that it began with, or "
            "another --workdir"
        )

    source = source.take(_positions(known, source.annotations, refuse))
    table, names = source.annotations, source.file_names
    for what, differs in (
        ("the size", (table.sizes != known.sizes).any(axis=1)),
        ("the content of the file", _both_known(table, known) & (table.fingerprints != known.fingerprints)),
        ("the number of boxes", np.diff(table.offsets) != np.diff(known.offsets)),
    ):
        if differs.any():
            raise refuse(f"{what} of {_images(names, differs)} differs")
    index = table.image_index
    found, before = (_order_of_boxes(index, t.boxes, t.labels, t.is_crowd) for t in (table, known))
    differs = (
        (table.boxes[found] != known.boxes[before]).any(axis=1)
        | (table.labels[found] != known.labels[before])
        | (table.is_crowd[found] != known.is_crowd[before])
    )
    if differs.any():
        raise refuse(f"boxes of {_images(names, np.bincount(index[found], differs, len(names)) > 0)} differ")
    rows = np.empty_like(found)
    rows[before] = found
    return dataclasses.replace(source, annotations=table.take_boxes(rows))


def _positions(
    known: Known, table: Annotations, refuse: Callable[[str], UserError]
) -> Int[np.ndarray, "images"]:
    """The position in the table of each image that is known: by its name, else by its file's content."""
    names, before = _relative(table.file_names), _relative(known.file_names.tolist())
    if sorted(names) == sorted(before):
        return _places(names, before)
    prints, prints_before = table.fingerprints.tolist(), known.fingerprints.tolist()
    if sorted(prints) == sorted(prints_before) and len(set(prints)) == len(prints):
        return _places(prints, prints_before)  # all were renamed
    new, gone = (sorted(set(a) - set(b)) for a, b in ((names, before), (before, names)))
    parts = [
        f"{len(some)} of its images {text} ({listed(some, 3)})"
        for text, some in (("are new", new), ("are gone", gone))
        if some
    ]
    raise refuse(" and ".join(parts) or "some of its images are listed another number of times")


def _places(keys: Sequence[object], wanted: Sequence[object]) -> Int[np.ndarray, "images"]:
    """Where each of the wanted keys stands; equal ones in their order."""
    order = sorted(range(len(keys)), key=keys.__getitem__)  # type: ignore[arg-type]
    places = np.empty(len(keys), int)
    places[sorted(range(len(wanted)), key=wanted.__getitem__)] = order  # type: ignore[arg-type]
    return places


def _relative(file_names: Sequence[str]) -> list[str]:
    """File names relative to the folder that they have in common: another root is no other content."""
    names = [name.replace("\\", "/") for name in file_names]
    folders = [os.path.normpath(PurePosixPath(name).parent) for name in names]
    same_kind = len({os.path.isabs(folder) for folder in folders}) == 1
    common = os.path.commonpath(set(folders)) if same_kind else "."
    return [os.path.relpath(name, common or ".") for name in names] if same_kind else names


def _both_known(table: Annotations, known: Known) -> Bool[np.ndarray, "images"]:
    return (table.fingerprints != 0) & (known.fingerprints != 0)


def _order_of_boxes(
    index: Int[np.ndarray, "boxes"],
    boxes: Float[np.ndarray, "boxes 4"],
    labels: Int[np.ndarray, "boxes"],
    is_crowd: Bool[np.ndarray, "boxes"],
) -> Int[np.ndarray, "boxes"]:
    """The rows by image, and within an image by their content."""
    return np.lexsort((is_crowd, labels, *boxes.T, index))


def _images(names: Sequence[str], which: Bool[np.ndarray, "images"]) -> str:
    chosen = [name for name, is_one in zip(names, which, strict=True) if is_one]
    return f"{len(chosen)} images ({listed(chosen, 3)})"
