"""Detections in the COCO results format: a JSON list with one entry for each box.

An entry is {"image_id": 42, "category_id": 18, "bbox": [x, y, width, height], "score": 0.87}, in pixels of
the original image. Numbers are not rounded, because rounding could change AP.
"""

import json
import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from etils.epath import Path
from jaxtyping import Float, Int

from gfl_jax.data.categories import Id
from gfl_jax.errors import UserError
from gfl_jax.files import open_file, read_file, write_file

Result = dict[str, Any]


def to_coco_results(
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    image_id: Id,
    category_ids: Sequence[Id | None],
) -> list[Result]:
    """Converts the detections of one image to COCO results.

    Args:
      boxes: (x1, y1, x2, y2) in pixels of the original image.
      scores: scores of the boxes.
      labels: labels of the boxes, counted from 0.
      image_id: id of the image, exactly as in the ground truth.
      category_ids: category id of each label; detections of a label with None are left out.

    Returns:
      One entry for each box, in the given order, with plain Python numbers.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {"image_id": _plain(image_id), "category_id": _plain(category_id), "bbox": bbox, "score": score}
        for bbox, score, label in zip(
            sides.tolist(), np.asarray(scores, np.float64).tolist(), np.asarray(labels).tolist(), strict=True
        )
        if (category_id := category_ids[label]) is not None
    ]


def write_results(path: str | Path, results: Sequence[Result]) -> None:
    """Writes results as JSON; the file is always either the old one or the complete new one."""
    write_file(path, json.dumps(list(results), allow_nan=False))


def looks_like_results(path: str | Path, named: bool = False) -> bool:
    """Whether a file starts like a file of `write_results`.

    Args:
      path: path of the file, which may be missing.
      named: whether the entries must have a file name, as those of `predict` have.
    """
    try:
        with open_file(path) as file:
            start = file.read(8192)
    except UserError:
        return False
    has_entry = start.startswith(b'[{"image_id": ') and (not named or b'"file_name": ' in start)
    return start == b"[]" or has_entry


def read_results(path: str | Path) -> list[Result]:
    """Reads results that `write_results` or another detector wrote.

    Raises:
      UserError: the file does not exist, is not JSON, or is not a list of results.
    """
    try:
        results = json.loads(read_file(path))
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); write it again") from error
    check_results(results, str(path))
    return results


def check_results(
    results: Any,
    name: str = "results",
    image_ids: Collection[Id] | None = None,
    category_ids: Collection[Id] | None = None,
) -> None:
    """Checks that `results` is a list of COCO results with known images and categories.

    Args:
      results: the value to check.
      name: name of the results in errors, such as the file.
      image_ids: image ids of the ground truth; None: any.
      category_ids: category ids of the ground truth; None: any.

    Raises:
      UserError: names the first wrong entry and says what is wrong.
    """
    if not isinstance(results, list):
        raise UserError(f"{name}: must be a list of COCO results, not {type(results).__name__}")
    for i, result in enumerate(results):
        where = f"{name}[{i}]"
        if not isinstance(result, dict):
            raise UserError(f"{where}: must be an object, not {type(result).__name__}")
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in result:
                raise UserError(f"{where}: has no key '{key}'; each result needs it")
        if not is_box(result["bbox"]) or not all(map(math.isfinite, result["bbox"])):
            raise UserError(f"{where}.bbox={result['bbox']!r}: must be four numbers: x, y, width, height")
        if not is_number(result["score"]) or not math.isfinite(result["score"]):
            raise UserError(f"{where}.score={result['score']!r}: must be a number")
        for key, known in (("image_id", image_ids), ("category_id", category_ids)):
            if type(result[key]) not in (int, str) and not _is_id(result[key]):
                raise UserError(f"{where}.{key}={result[key]!r}: must be a whole number or a string")
            if known is not None and result[key] not in known:
                raise UserError(
                    f"{where}.{key}={result[key]!r}: is not in the ground truth; "
                    "evaluate against the annotations of the same data set"
                )


def _plain(id: Id) -> Id:
    """Converts an id to a Python int or str, because JSON cannot write numpy numbers."""
    return id if isinstance(id, str) else int(id)


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral | str) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; NaN and infinity count."""
    # The first check is fast; the second also accepts numpy numbers.
    return type(value) in (float, int) or (isinstance(value, Real) and not isinstance(value, bool))


def is_box(value: Any) -> bool:
    """Whether a JSON value is a list of four numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_number, value))
