"""Reduces COCO annotations to the fields that the box metrics need."""

from collections.abc import Collection
from typing import Any

import numpy as np
from etils.epath import Path

from gfl_jax.data.categories import Categories, Id
from gfl_jax.data.coco_file import CocoFile, load_coco_json, parse_coco


def load_ground_truth(source: dict[str, Any] | str | Path | CocoFile) -> dict[str, Any]:
    """Reads and checks COCO annotations.

    Fields that the metrics do not need (masks, licences, ...) are left out. Custom data sets often lack some
    fields: `iscrowd` becomes 0, and `area` becomes the area of the box. Annotations are numbered from 1,
    because pycocotools treats a match with annotation 0 as no match. Boxes that are not finite are left out,
    as in the data sources.

    Args:
      source: a COCO annotation file, its content (which is not changed), or its parsed form.

    Returns:
      A new dictionary with `images`, `categories` and `annotations`.

    Raises:
      UserError: names the file, the entry and the key that is missing or wrong.
    """
    if isinstance(source, CocoFile):
        file = source
    elif isinstance(source, dict):
        file = parse_coco(source, "ground truth", with_files=False)
    else:
        file = parse_coco(load_coco_json(source), str(source), with_files=False)
    with np.errstate(over="ignore", invalid="ignore"):  # huge boxes
        area = np.where(np.isnan(file.area), file.boxes_xywh[:, 2] * file.boxes_xywh[:, 3], file.area)
    good = np.flatnonzero(np.isfinite(file.boxes_xywh).all(axis=1) & np.isfinite(area))
    names, ids = file.categories
    return {
        "images": [{"id": id} for id in file.image_ids],
        "categories": [{"id": id, "name": name} for name, id in zip(names, ids, strict=True)],
        "annotations": [
            {
                "id": number,
                "image_id": file.image_ids[file.image_index[row]],
                "category_id": ids[file.labels[row]],
                "bbox": file.boxes_xywh[row].tolist(),
                "area": float(area[row]),
                "iscrowd": int(file.is_crowd[row]),
            }
            for number, row in enumerate(good.tolist(), start=1)
        ],
    }


def restricted(file: CocoFile, image_ids: Collection[Id], names: Collection[str]) -> CocoFile:
    """Restricts a file to some of its images and classes."""
    images = np.array([id in image_ids for id in file.image_ids], bool)
    classes = np.array([name in names for name in file.categories.names], bool)
    if images.all() and classes.all():
        return file
    rows = images[file.image_index] & classes[file.labels]
    fields = {name: getattr(file, name)[rows] for name in ("boxes_xywh", "is_crowd", "ignored", "area")}
    return file._replace(
        **fields,
        image_ids=_chosen(file.image_ids, images),
        file_names=_chosen(file.file_names, images),
        sizes=file.sizes[images],
        categories=Categories(*(_chosen(column, classes) for column in file.categories)),
        image_index=(np.cumsum(images) - 1)[file.image_index[rows]],
        labels=(np.cumsum(classes) - 1)[file.labels[rows]],
    )


def _chosen(values: tuple[Any, ...], kept: np.ndarray) -> tuple[Any, ...]:
    return tuple(value for value, keep in zip(values, kept, strict=True) if keep)
