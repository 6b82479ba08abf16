"""COCO annotations, reduced to what the box metrics need and checked on the way."""

import math
from numbers import Integral
from pathlib import Path
from typing import Any

from gfl_jax.data.coco_json import load_coco_json
from gfl_jax.errors import UserError
from gfl_jax.evaluation.results import is_box, is_number


def load_ground_truth(source: dict[str, Any] | str | Path) -> dict[str, Any]:
    """Reads and checks COCO annotations.

    What the metrics do not need (masks, licences, ...) is left out. What they need and files
    of custom data sets often lack is filled in: `iscrowd` with 0, `area` with that of the box.
    Annotations are numbered from 1, since pycocotools takes a match with number 0 for none.
    Boxes that are not finite are left out, as the data sources leave them out.

    Args:
      source: a COCO annotation file, or its content, which is left as it is.

    Returns:
      A new dictionary with `images`, `categories` and `annotations`.

    Raises:
      UserError: names the file, the entry and the key that is missing or wrong.
    """
    if isinstance(source, dict):
        name, content = "ground truth", source
    else:
        name, content = str(source), load_coco_json(source)
    images, categories = _by_id(content, "images", name), _by_id(content, "categories", name)
    known = {"image_id": ("images", images), "category_id": ("categories", categories)}
    annotations: list[dict[str, Any]] = []
    for where, annotation in _entries(content, "annotations", (*known, "bbox"), name):
        for key, (others, ids) in known.items():
            if _whole(annotation, key, where) not in ids:
                raise UserError(f"{where}.{key}={annotation[key]!r}: is not among the {others}; add it there")
        bbox = annotation["bbox"]
        if not is_box(bbox):
            raise UserError(f"{where}.bbox={bbox!r}: must be four numbers: x, y, width, height")
        if not all(map(math.isfinite, bbox)):
            continue
        area = annotation.get("area", bbox[2] * bbox[3])
        if not is_number(area) or not math.isfinite(area):
            raise UserError(f"{where}.area={area!r}: must be a number of pixels")
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": list(bbox),
                "area": area,
                "iscrowd": int(bool(annotation.get("iscrowd", 0))),
            }
        )
    return {
        "images": [{"id": id} for id in images],
        "categories": [{"id": id, "name": str(x.get("name", id))} for id, x in categories.items()],
        "annotations": annotations,
    }


def _entries(
    content: dict[str, Any], key: str, needed: tuple[str, ...], name: str
) -> list[tuple[str, dict[str, Any]]]:
    """The entries of a list, each with its place for error messages; all have the `needed` keys."""
    if not isinstance(content.get(key), list):
        raise UserError(f"{name}: has no list '{key}'; COCO annotations need images, annotations, categories")
    entries = [(f"{name}: {key}[{i}]", entry) for i, entry in enumerate(content[key])]
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise UserError(f"{where}: must be an object, not {type(entry).__name__}")
        for part in needed:
            if part not in entry:
                raise UserError(f"{where}: has no key '{part}'; each entry of {key} needs it")
    return entries


def _by_id(content: dict[str, Any], key: str, name: str) -> dict[int, dict[str, Any]]:
    """The entries of a list by their ids, which must all differ."""
    entries: dict[int, dict[str, Any]] = {}
    for where, entry in _entries(content, key, ("id",), name):
        id = _whole(entry, "id", where)
        if id in entries:
            raise UserError(f"{where}.id={id}: is there twice; give each of the {key} its own id")
        entries[id] = entry
    return entries


def _whole(entry: dict[str, Any], key: str, where: str) -> int:
    if not isinstance(entry[key], Integral):
        raise UserError(f"{where}.{key}={entry[key]!r}: must be a whole number")
    return int(entry[key])
