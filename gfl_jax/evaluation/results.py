"""Detections in the COCO results format: a JSON list with one entry for each box.

An entry is {"image_id": 42, "category_id": 18, "bbox": [x, y, width, height], "score": 0.87},
in pixels of the original picture. Numbers are kept as they are: rounding them could change AP.
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
    """The detections of one image as COCO results.

    Args:
      boxes: (x1, y1, x2, y2) in pixels of the original image.
      scores: of the boxes.
      labels: of the boxes, counted from 0.
      image_id: of the image in the ground truth, exactly as it is there.
      category_ids: the category id of each label; detections of a label without one are left out.

    Returns:
      One entry for each box, in the given order, of plain Python numbers.
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
    """Writes results as JSON; the file is either the old one or the whole new one."""
    write_file(path, json.dumps(list(results), allow_nan=False))


def looks_like_results(path: str | Path, named: bool = False) -> bool:
    """Whether a file begins as `write_results` begins it.

    Args:
      path: of the file, which need not be there.
      named: whether its entries must have a file name, as those of `predict` have.
    """
    try:
        with open_file(path) as file:
            start = file.read(8192)
    except UserError:
        return False
    has_entry = start.startswith(b'[{"image_id": ') and (not named or b'"file_name": ' in start)
    return start == b"[]" or has_entry


def read_results(path: str | Path) -> list[Result]:
    """Reads what `write_results` or another detector wrote.

    Raises:
      UserError: there is no such file, it is no JSON, or no list of results.
    """
    try:
        results = json.loads(read_file(path))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); write it again") from error
    check_results(results, str(path))
    return results


def check_results(
    results: Any,
    name: str = "results",
    image_ids: Collection[Id] | None = None,
    category_ids: Collection[Id] | None = None,
) -> None:
    """Checks that `results` are COCO results, and of known pictures and categories.

    Args:
      results: what should be a list of results.
      name: what to call it in an error, such as the file.
      image_ids: those of the ground truth; None: any.
      category_ids: those of the ground truth; None: any.

    Raises:
      UserError: names the first entry that is wrong, and what is wrong with it.
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
                raise UserError(f"{where}.{key}={result[key]!r}: must be a whole number or a text")
            if known is not None and result[key] not in known:
                raise UserError(
                    f"{where}.{key}={result[key]!r}: is not in the ground truth; "
                    "evaluate against the annotations of the same data set"
                )


def _plain(id: Id) -> Id:
    """The id as Python's own number or text, which JSON can write; numpy's numbers are none."""
    return id if isinstance(id, str) else int(id)


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral | str) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number, be it NaN or infinite."""
    # The first is quick, and the second is for numpy's numbers.
    return type(value) in (float, int) or (isinstance(value, Real) and not isinstance(value, bool))


def is_box(value: Any) -> bool:
    """Whether a JSON value is a list of four numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_number, value))
