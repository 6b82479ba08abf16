"""A data set given as a COCO annotation JSON and a folder of pictures.

Labels are positions in the file's `categories`, whatever the ids are. Missing `iscrowd`
means no crowd, missing `area` the area of the box.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gfl_jax.data.annotations import build_annotations
from gfl_jax.data.images import decode_image
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import retrying

_MISSING = object()


def coco_json_source(annotations: str | Path, images: str | Path) -> Source:
    """Reads the annotations and checks that every picture is there.

    Args:
      annotations: a JSON file in COCO's format for detection ("instances").
      images: the folder that its file names are relative to.

    Raises:
      UserError: the file is missing, broken or lacks keys, or a picture is missing.
    """
    path, folder = Path(annotations), Path(images)
    data = load_coco_json(path)
    pictures, objects = data["images"], data["annotations"]
    ids = _column(path, "images", pictures, "id")
    position = {image_id: i for i, image_id in enumerate(ids)}
    if len(position) < len(ids):
        raise UserError(f"{path}: two of its images have the same id; give each its own")
    file_names = tuple(_column(path, "images", pictures, "file_name"))
    _require_files(path, folder, file_names)
    sizes = _numbers(path, "images", "height", _column(path, "images", pictures, "height"), ())
    widths = _numbers(path, "images", "width", _column(path, "images", pictures, "width"), ())
    names, category_ids = read_categories(path, data)
    label = {category_id: i for i, category_id in enumerate(category_ids)}
    labels = [label.get(c, -1) for c in _column(path, "annotations", objects, "category_id")]
    if -1 in labels:
        at = labels.index(-1)
        raise UserError(
            f"{path}: annotations[{at}] has category_id {objects[at]['category_id']!r}, "
            "which is not in 'categories'; add it there or remove the annotation"
        )
    image_index = [position.get(i, -1) for i in _column(path, "annotations", objects, "image_id")]
    if -1 in image_index:
        at = image_index.index(-1)
        raise UserError(
            f"{path}: annotations[{at}] has image_id {objects[at]['image_id']!r}, "
            "which is not in 'images'; add it there or remove the annotation"
        )
    boxes = _column(path, "annotations", objects, "bbox")
    table = build_annotations(
        name=str(path),
        sizes=np.stack([sizes, widths], axis=1).astype(np.int32),
        image_ids=_numbers(path, "images", "id", ids, ()).astype(np.int64),
        file_names=file_names,
        image_index=np.array(image_index, np.int64),
        boxes_xywh=_numbers(path, "annotations", "bbox", boxes, (4,)),
        labels=np.array(labels, np.int32),
        is_crowd=np.array(_column(path, "annotations", objects, "iscrowd", 0), bool),
        area=_numbers(path, "annotations", "area", _column(path, "annotations", objects, "area", np.nan), ()),
    )
    return Source(str(path), names, category_ids, table, _FolderImages(folder, file_names, table.sizes))


def load_coco_json(
    path: str | Path, lists: Sequence[str] = ("images", "annotations", "categories")
) -> dict[str, Any]:
    """Reads a COCO annotation file and checks that its lists are there.

    Raises:
      UserError: there is no such file, it is no JSON, or a list is missing.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"{path}: is no valid JSON ({error}); get or export the file again") from error
    for key in lists:
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UserError(f"{path}: has no list {key!r}; a COCO annotation file has {', '.join(lists)}")
    return data


def read_categories(path: str | Path, data: dict[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names and ids of the categories of a loaded COCO file, in the file's order."""
    categories = data["categories"]
    names = tuple(map(str, _column(path, "categories", categories, "name")))
    ids = tuple(_column(path, "categories", categories, "id"))
    if len(set(ids)) < len(ids):
        raise UserError(f"{path}: two of its categories have the same id; give each its own")
    return names, ids


class _FolderImages:
    """Reads pictures of a folder by their position in the annotations."""

    def __init__(self, folder: Path, file_names: tuple[str, ...], sizes: np.ndarray) -> None:
        self.folder, self.file_names, self.sizes = folder, file_names, sizes

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        path = self.folder / self.file_names[i]
        try:
            encoded = retrying(path.read_bytes, f"{path}: cannot be read")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        height, width = self.sizes[i].tolist()
        return decode_image(encoded, str(path), (height, width))


def _column(
    path: str | Path, table: str, records: Sequence[Any], key: str, default: Any = _MISSING
) -> list[Any]:
    """One field of each record; an error that names the first record without it."""
    try:
        if default is not _MISSING:
            return [record.get(key, default) for record in records]
        return [record[key] for record in records]
    except (KeyError, TypeError, AttributeError) as error:
        at = next(i for i, r in enumerate(records) if not isinstance(r, dict) or key not in r)
        raise UserError(f"{path}: {table}[{at}] has no {key!r}; add it to the file") from error


def _numbers(path: str | Path, table: str, key: str, values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    """A column as float64 of shape [records, *shape]; an error that names the first misfit."""
    try:
        return np.array(values, np.float64).reshape(len(values), *shape)
    except (ValueError, TypeError) as error:
        at = next(i for i, value in enumerate(values) if not _is_numeric(value, shape))
        wanted = "a list of 4 numbers" if shape else "a number"
        raise UserError(f"{path}: {table}[{at}].{key} is {values[at]!r}, not {wanted}; correct it") from error


def _is_numeric(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        return np.array(value, np.float64).shape == shape
    except (ValueError, TypeError):
        return False


def _require_files(path: Path, folder: Path, file_names: Sequence[str]) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of pictures for {path}; check the path")
    present = set(os.listdir(folder))  # one listing: far quicker than asking for each file
    missing = [name for name in file_names if name not in present and not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder / missing[0]}: is missing, like {len(missing)} of the {len(file_names)} pictures "
            f"named in {path}; add them or take them out of the annotations"
        )
