"""Inputs of the benchmarks: random boxes, batches of noise, and a data set like COCO."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.source import Source
from gfl_jax.structures import Batch

IMAGE_SIZE = (480, 640)  # COCO's most frequent image size
BOX_SLOTS = 100  # about the largest number of boxes in a COCO image
MEAN_BOXES = 7  # as in COCO
GRAIN = 8.0  # standard deviation of the noise on images; makes JPEG files of 160 kB, as in COCO


def random_boxes(
    rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int]
) -> Float[np.ndarray, "*shape 4"]:
    """Draws boxes of all sizes, small ones more often, anywhere in an image of `size` (height, width)."""
    limits = np.array([size[1], size[0]])
    sides = np.exp(rng.uniform(np.log(8), np.log(0.8 * limits), (*shape, 2)))
    corners = rng.uniform(0, 1, (*shape, 2)) * (limits - sides)
    return np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)


def random_batch(batch_size: int, size: tuple[int, int], num_classes: int) -> Batch:
    """Makes a batch of noise that fills the canvas of `size`. Only the shapes determine its cost."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "images": rng.integers(0, 256, (batch_size, *size, 3), np.uint8),
        "image_sizes": np.tile(np.array(size, np.int32), (batch_size, 1)),
        "scale_factors": np.ones((batch_size, 2), np.float32),
        "indices": np.arange(batch_size, dtype=np.int32),
        "boxes": random_boxes(rng, (batch_size, BOX_SLOTS), size),
        "labels": rng.integers(0, num_classes, (batch_size, BOX_SLOTS), np.int32),
        "box_mask": np.tile(np.arange(BOX_SLOTS) < MEAN_BOXES, (batch_size, 1)),
    }
    return Batch(**arrays)


def write_data_set(folder: Path, count: int) -> Source:
    """Writes JPEG images and a COCO JSON into `folder`, and opens them.

    The images are blurred noise with a grain. Their files are as large as COCO's.
    """
    rng = np.random.default_rng(0)
    height, width = IMAGE_SIZE
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(1, count + 1):
        shapes = cv2.resize(rng.uniform(0, 255, (15, 20, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(shapes + rng.normal(0, GRAIN, (height, width, 1)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), image)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": height, "width": width})
        for x1, y1, x2, y2 in random_boxes(rng, (MEAN_BOXES,), IMAGE_SIZE).tolist():
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return coco_json_source(folder / "annotations.json", folder)
