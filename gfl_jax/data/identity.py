"""Checks by content, not by path, that a data set is the one that a run started with.

A run keeps a record of its data. On resume, the same content is recognized at any path and in any order, and
is put back into the recorded order, so the batches are bit-identical. Other content is refused, and the error
says what differs.
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

from gfl_jax.console.plain import counted
from gfl_jax.data.annotations import Annotations
from gfl_jax.data.categories import listed
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import read_file, write_file


class DataRecord(NamedTuple):
    """What a run records about a data set, in the original order; labels are those of the detector."""

    file_names: np.ndarray  # (images,) strings
    sizes: Int[np.ndarray, "images 2"]
    fingerprints: Int[np.ndarray, "images"]  # of the files; 0 if unknown
    offsets: Int[np.ndarray, "images+1"]  # image i has the rows offsets[i]:offsets[i + 1]
    boxes: Float[np.ndarray, "boxes 4"]
    labels: Int[np.ndarray, "boxes"]
    is_crowd: Bool[np.ndarray, "boxes"]


def record_of(source: Source) -> DataRecord:
    """The record of a source."""
    table = source.annotations
    return DataRecord(
        np.array(table.file_names),
        table.sizes,
        table.fingerprints,
        table.offsets,
        table.boxes,
        table.labels,
        table.is_crowd,
    )


def write_records(file: Path, records: Mapping[str, DataRecord]) -> None:
    """Writes the records of several data sets, each under its name."""
    content = io.BytesIO()
    arrays = {
        f"{name}/{key}": array for name, data in records.items() for key, array in data._asdict().items()
    }
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_file(file, content.getvalue())


def read_records(file: Path) -> dict[str, DataRecord]:
    """Reads the records that `write_records` wrote.

    Raises:
      UserError: the file cannot be read or is damaged.
    """
    try:
        with np.load(io.BytesIO(read_file(file))) as stored:
            names = {name.partition("/")[0] for name in stored.files}
            return {
                name: DataRecord(*(stored[f"{name}/{key}"] for key in DataRecord._fields)) for name in names
            }
    except Exception as error:  # numpy and zipfile raise errors of many types
        raise UserError(
            f"{file}: cannot be read ({error}), so the data cannot be compared with those that the run "
            "started with; if they are the same, delete the file"
        ) from error


def in_recorded_order(source: Source, record: DataRecord, owner: str) -> Source:
    """Checks that a source has the recorded content, and puts it into the recorded order.

    Args:
      source: the data set, with the labels of the detector.
      record: the record of the data that the run started with.
      owner: who made the record, for messages.

    Raises:
      UserError: says in which images the content differs, and how.
    """

    def refuse(what: str) -> UserError:
        return UserError(
            f"{source.name}: is not the data set that {owner} started with: {what}; name that data set, or "
            "another --workdir"
        )

    source = source.take(_positions(record, source.annotations, refuse))
    table, names = source.annotations, source.file_names
    for what, differs in (
        ("the size", (table.sizes != record.sizes).any(axis=1)),
        ("the content of the file", _both_known(table, record) & (table.fingerprints != record.fingerprints)),
        ("the number of boxes", np.diff(table.offsets) != np.diff(record.offsets)),
    ):
        if differs.any():
            raise refuse(f"{what} of {_images(names, differs)} differs")
    index = table.image_index
    found, before = (_order_of_boxes(index, t.boxes, t.labels, t.is_crowd) for t in (table, record))
    differs = (
        (table.boxes[found] != record.boxes[before]).any(axis=1)
        | (table.labels[found] != record.labels[before])
        | (table.is_crowd[found] != record.is_crowd[before])
    )
    if differs.any():
        raise refuse(f"boxes of {_images(names, np.bincount(index[found], differs, len(names)) > 0)} differ")
    rows = np.empty_like(found)
    rows[before] = found
    return dataclasses.replace(source, annotations=table.take_boxes(rows))


def _positions(
    record: DataRecord, table: Annotations, refuse: Callable[[str], UserError]
) -> Int[np.ndarray, "images"]:
    """The position in the table of each recorded image, found by name or else by the content of the file."""
    names, before = _relative(table.file_names), _relative(record.file_names.tolist())
    if sorted(names) == sorted(before):
        return _index_of(names, before)
    prints, prints_before = table.fingerprints.tolist(), record.fingerprints.tolist()
    if sorted(prints) == sorted(prints_before) and len(set(prints)) == len(prints):
        return _index_of(prints, prints_before)  # the files were renamed
    new, gone = (sorted(set(a) - set(b)) for a, b in ((names, before), (before, names)))
    parts = [
        f"{len(some)} of its images {text} ({listed(some, 3)})"
        for text, some in (("are new", new), ("are missing", gone))
        if some
    ]
    raise refuse(" and ".join(parts) or "some of its images are listed more often or less often")


def _index_of(keys: Sequence[object], wanted: Sequence[object]) -> Int[np.ndarray, "images"]:
    """The position of each wanted key in `keys`; equal keys keep their order."""
    order = sorted(range(len(keys)), key=keys.__getitem__)  # type: ignore[arg-type]
    positions = np.empty(len(keys), int)
    positions[sorted(range(len(wanted)), key=wanted.__getitem__)] = order  # type: ignore[arg-type]
    return positions


def _relative(file_names: Sequence[str]) -> list[str]:
    """File names relative to their common folder, so that a data set may move to another folder."""
    names = [name.replace("\\", "/") for name in file_names]
    folders = [os.path.normpath(PurePosixPath(name).parent) for name in names]
    same_kind = len({os.path.isabs(folder) for folder in folders}) == 1
    common = os.path.commonpath(set(folders)) if same_kind else "."
    return [os.path.relpath(name, common or ".") for name in names] if same_kind else names


def _both_known(table: Annotations, record: DataRecord) -> Bool[np.ndarray, "images"]:
    return (table.fingerprints != 0) & (record.fingerprints != 0)


def _order_of_boxes(
    index: Int[np.ndarray, "boxes"],
    boxes: Float[np.ndarray, "boxes 4"],
    labels: Int[np.ndarray, "boxes"],
    is_crowd: Bool[np.ndarray, "boxes"],
) -> Int[np.ndarray, "boxes"]:
    """The order of the rows by image, and within an image by content."""
    return np.lexsort((is_crowd, labels, *boxes.T, index))


def _images(names: Sequence[str], which: Bool[np.ndarray, "images"]) -> str:
    chosen = [name for name, is_one in zip(names, which, strict=True) if is_one]
    return f"{counted(len(chosen), 'image')} ({listed(chosen, 3)})"
