"""The features of the official tfds `coco/2017`, for builders that run without TensorFlow."""

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds


def detection_features(
    encoding: Literal["jpeg", "png"], num_classes: int, names: Sequence[str] | None = None
) -> tfds.features.FeaturesDict:
    """The features of a detection data set, with the names and dtypes of `coco/2017`.

    Args:
      encoding: encoding of images that are given as arrays; encoded files are stored unchanged.
      num_classes: number of categories.
      names: names of the categories, if known before the data are read.
    """
    label = tfds.features.ClassLabel(num_classes=num_classes)
    if names is not None:
        label.names = list(names)
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format=encoding),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.int64,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": label,
                    "is_crowd": np.bool_,
                }
            ),
        }
    )


def detection_example(
    encoded: bytes,
    name: str,
    image_id: int,
    size: tuple[int, int],
    objects: Sequence[tuple[str, Sequence[float]]],
) -> dict[str, Any]:
    """One image with its objects, in the form of these features.

    Args:
      encoded: content of the image file.
      name: name of the file.
      image_id: unique id of the image.
      size: (height, width) in pixels.
      objects: category name and box (xyxy, pixels) of each object; object ids count from 1.
    """
    return {
        "image": io.BytesIO(encoded),
        "image/filename": name,
        "image/id": image_id,
        "objects": [
            {
                "id": number,
                "area": int((x2 - x1) * (y2 - y1)),
                "bbox": relative_box(x1, y1, x2, y2, size),
                "label": label,
                "is_crowd": False,
            }
            for number, (label, (x1, y1, x2, y2)) in enumerate(objects, start=1)
        ],
    }


def relative_box(x1: float, y1: float, x2: float, y2: float, size: tuple[int, int]) -> tfds.features.BBox:
    """Converts a box from pixels to shares of the image's (height, width), as tfds stores it."""
    height, width = size
    return tfds.features.BBox(ymin=y1 / height, xmin=x1 / width, ymax=y2 / height, xmax=x2 / width)
