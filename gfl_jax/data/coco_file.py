"""Reads and checks a COCO annotation file; training, evaluation and the builders share it.

Ids stay as in the file: whole numbers of any size, or strings. Labels are positions in the file's
`categories`, not ids. Custom data sets often lack some fields: `iscrowd` and `ignore` become 0, and `area`
becomes NaN.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float, Int

from gfl_jax.data.categories import Categories, Id
from gfl_jax.errors import UserError
from gfl_jax.files import read_file
from gfl_jax.paths import as_path

_EXACT = 2**53  # floats from here on can stand for more than one whole number
_MAX_SIDE = 10**6  # pixels
_LISTS = ("images", "annotations", "categories")


class CocoFile(NamedTuple):
    """The checked content of an annotation file; annotations are unchanged and in file order."""

    name: str
    image_ids: tuple[Id, ...]
    file_names: tuple[str, ...]  # "" if parsed without file names
    sizes: Int[np.ndarray, "images 2"]  # (height, width); 0 if parsed without sizes
    categories: Categories
    annotated: bool  # whether the file has a list of annotations; COCO's test files have none
    image_index: Int[np.ndarray, "raw"]
    labels: Int[np.ndarray, "raw"]
    boxes_xywh: Float[np.ndarray, "raw 4"]  # may hold NaN or infinity
    is_crowd: Bool[np.ndarray, "raw"]
    ignored: Bool[np.ndarray, "raw"]  # annotations with "ignore": 1; mmdetection does not train on them
    area: Float[np.ndarray, "raw"]  # NaN if the file has no area


def read_coco(path: str | Path) -> CocoFile:
    """Reads and checks a file; the list of annotations may be absent, as in COCO's `image_info` files.

    Raises:
      UserError: names the file, the entry and the key that is missing or wrong.
    """
    return parse_coco(load_coco_json(path, ("images", "categories")), str(path))


def parse_coco(content: Any, name: str, with_files: bool = True) -> CocoFile:
    """Checks the content of a file.

    Args:
      content: the parsed JSON; it is not changed.
      name: name of the file, for messages.
      with_files: whether file names and sizes of the images are required.

    Raises:
      UserError: names the file, the entry and the key that is missing or wrong.
    """
    annotated = isinstance(content, dict) and "annotations" in content
    _require_lists(content, name, _LISTS if annotated or not with_files else ("images", "categories"))
    images, categories = content["images"], content["categories"]
    annotations = content["annotations"] if annotated else []
    for key, records in (("images", images), ("categories", categories), ("annotations", annotations)):
        _require_objects(name, key, records)
    image_ids = _ids(name, "images", images, "id")
    _require_unique(name, "images", "id", image_ids)
    parsed = _parse_categories(name, _without_groups(categories, annotations))
    position = {image_id: i for i, image_id in enumerate(image_ids)}
    label = {category_id: i for i, category_id in enumerate(parsed.ids)}
    if with_files:
        file_names = _texts(name, "images", images, "file_name")
        sides = [_sides(name, images, key) for key in ("height", "width")]
    else:
        file_names, sides = ("",) * len(images), [np.zeros(len(images), np.int32)] * 2
    return CocoFile(
        name=name,
        image_ids=image_ids,
        file_names=file_names,
        sizes=np.stack(sides, axis=1),
        categories=parsed,
        annotated=annotated,
        image_index=_references(name, annotations, "image_id", position, "images"),
        labels=_references(name, annotations, "category_id", label, "categories"),
        boxes_xywh=_boxes(name, annotations),
        is_crowd=_flags(name, annotations, "iscrowd"),
        ignored=_flags(name, annotations, "ignore"),
        area=_areas(name, annotations),
    )


def load_coco_json(path: str | Path, lists: Sequence[str] = _LISTS) -> dict[str, Any]:
    """Loads a COCO file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Raises:
      UserError: the file does not exist, is not JSON, or lacks a list.
    """
    path = as_path(path)
    try:
        content = json.loads(read_file(path))
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); get or export the file again") from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply for a COCO file; export the file again") from error
    _require_lists(content, str(path), lists)
    return content


def _without_groups(categories: list[Any], annotations: list[Any]) -> list[Any]:
    """Drops the category that Roboflow adds for the project; it is the supercategory of the real classes."""
    used = [annotation.get("category_id") for annotation in annotations]
    parents = [category.get("supercategory") for category in categories]
    return [
        category
        for category in categories
        if category.get("supercategory") != "none"
        or category.get("name") not in parents
        or category.get("id") in used
    ]


def _parse_categories(name: str, records: list[Any]) -> Categories:
    if not records:
        raise UserError(f"{name}: the list 'categories' is empty; add the classes to it")
    ids = _ids(name, "categories", records, "id")
    _require_unique(name, "categories", "id", ids)
    if any("name" not in record for record in records):
        _missing(name, "categories", records, "name")
    names = [str(n) if type(n := record["name"]) is int else n for record in records]
    texts = _check(name, "categories", "name", names, _is_text, "a string")
    _require_unique(name, "categories", "name", texts)
    return Categories(tuple(texts), ids)


def _require_lists(content: Any, name: str, lists: Sequence[str]) -> None:
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{name}: has no list {key!r}; a COCO annotation file has {', '.join(_LISTS)}")


def _require_objects(name: str, table: str, records: list[Any]) -> None:
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(
                f"{name}: {table}[{i}]: must be an object, not {_shown(record)}; correct the file"
            )


def _require_unique(name: str, table: str, key: str, values: Sequence[Any]) -> None:
    seen: set[Any] = set()
    for i, value in enumerate(values):
        if value in seen:
            raise UserError(f"{name}: {table}[{i}].{key}={_shown(value)}: occurs twice; make it unique")
        seen.add(value)


def _column(name: str, table: str, records: list[Any], key: str) -> list[Any]:
    """The values of one key in all records."""
    try:
        return [record[key] for record in records]
    except KeyError:
        return _missing(name, table, records, key)


def _missing(name: str, table: str, records: list[Any], key: str) -> Any:
    at = next(i for i, record in enumerate(records) if key not in record)
    raise UserError(f"{name}: {table}[{at}]: has no key {key!r}; add it to the file")


def _check(
    name: str, table: str, key: str, values: list[Any], fits: Callable[[Any], bool], wanted: str
) -> list[Any]:
    """Returns the values if all of them fit; otherwise raises an error that names the first that does not."""
    at = next((i for i, value in enumerate(values) if not fits(value)), None)
    if at is not None:
        raise UserError(f"{name}: {table}[{at}].{key}={_shown(values[at])}: must be {wanted}; correct it")
    return values


def _ids(name: str, table: str, records: list[Any], key: str) -> tuple[Id, ...]:
    values = _column(name, table, records, key)
    if set(map(type, values)) <= {int}:
        return tuple(values)
    _check(name, table, key, values, _is_id, "a whole number or a string")
    return tuple(int(value) if type(value) is float else value for value in values)


def _references(
    name: str, records: list[Any], key: str, positions: dict[Id, int], table: str
) -> Int[np.ndarray, "raw"]:
    found = [positions.get(id, -1) for id in _ids(name, "annotations", records, key)]
    if -1 in found:
        at = found.index(-1)
        raise UserError(
            f"{name}: annotations[{at}].{key}={_shown(records[at][key])}: is not among the {table}; "
            "add it there or remove the annotation"
        )
    return np.array(found, np.int64)


def _texts(name: str, table: str, records: list[Any], key: str) -> tuple[str, ...]:
    values = _column(name, table, records, key)
    return tuple(_check(name, table, key, values, _is_text, "a string"))


def _sides(name: str, images: list[Any], key: str) -> Int[np.ndarray, "images"]:
    def fits(value: Any) -> bool:
        return _is_number(value) and 1 <= value <= _MAX_SIDE and value == int(value)

    values = _column(name, "images", images, key)
    wanted = f"a whole number of pixels, from 1 to {_MAX_SIDE}"
    return np.array(_check(name, "images", key, values, fits, wanted), np.int32)


def _boxes(name: str, annotations: list[Any]) -> Float[np.ndarray, "raw 4"]:
    values = _column(name, "annotations", annotations, "bbox")
    wanted = "a list of four numbers: x, y, width, height"
    _check(name, "annotations", "bbox", values, _is_box, wanted)
    return np.array(values, np.float64).reshape(-1, 4)


def _areas(name: str, annotations: list[Any]) -> Float[np.ndarray, "raw"]:
    values = [annotation.get("area") for annotation in annotations]
    fits = lambda value: value is None or (_is_number(value) and np.isfinite(value))  # noqa: E731
    _check(name, "annotations", "area", values, fits, "a number of pixels")
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _flags(name: str, annotations: list[Any], key: str) -> Bool[np.ndarray, "raw"]:
    values = [annotation.get(key) for annotation in annotations]
    # bool(value) would not do: the string "0" is true.
    fits = lambda value: value is None or (isinstance(value, bool | int | float) and value in (0, 1))  # noqa: E731
    return np.array(_check(name, "annotations", key, values, fits, "0 or 1"), object).astype(bool)


def _is_id(value: Any) -> bool:
    if type(value) is float:
        return value.is_integer() and abs(value) < _EXACT
    return type(value) is int or _is_text(value)


def _is_text(value: Any) -> bool:
    """Whether a value is a non-empty string that can be a file name: no NUL, no lone surrogates."""
    try:
        return isinstance(value, str) and bool(value) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold; NaN and infinity count."""
    if type(value) is int:
        return abs(value) < 1e300
    return type(value) is float


def _is_box(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(_is_number, value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
