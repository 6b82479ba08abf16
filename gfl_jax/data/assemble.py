"""Reads, transforms and pads the images of one planned batch; data workers run this."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gfl_jax.config import Crops
from gfl_jax.data.crops import random_crop
from gfl_jax.data.plan import FILLER, PlannedBatch
from gfl_jax.data.source import Example
from gfl_jax.data.transforms import flip_boxes, flip_image, resize_image, scale_boxes
from gfl_jax.errors import UserError

Transformed = tuple[
    UInt8[np.ndarray, "height width 3"],
    Float[np.ndarray, "n 4"],
    Bool[np.ndarray, "n"],  # which boxes to keep
    Float[np.ndarray, "2"],  # scale factors (x, y)
]


def assemble(
    plan: PlannedBatch,
    columns: range,
    example: Callable[[int], Example],
    max_boxes: int,
    crops: Crops | None = None,
    seed: tuple[int, ...] = (),
    skip_unreadable: bool = False,
) -> dict[str, np.ndarray]:
    """Makes the arrays of a `Batch` from a plan.

    Args:
      plan: the global batch.
      columns: which images of the global batch to make.
      example: reads the example at a position of the source.
      max_boxes: number of box rows of each image, padding included.
      crops: if given, images are cropped at random instead of resized as planned.
      seed: seeds the random crops, together with the number of the column.
      skip_unreadable: whether an unreadable image becomes a filler; otherwise its UserError is raised.

    Returns:
      The fields of `gfl_jax.structures.Batch`. Crowds are left out.
    """
    count = len(columns)
    batch: dict[str, np.ndarray] = {
        "images": np.zeros((count, *plan.canvas, 3), np.uint8),
        "image_sizes": np.ones((count, 2), np.int32),
        "scale_factors": np.ones((count, 2), np.float32),
        "indices": plan.positions[columns.start : columns.stop].astype(np.int32),
        "boxes": np.zeros((count, max_boxes, 4), np.float32),
        "labels": np.zeros((count, max_boxes), np.int32),
        "box_mask": np.zeros((count, max_boxes), bool),
    }
    for row, column in enumerate(columns):
        position = int(plan.positions[column])
        if position == FILLER:
            continue
        try:
            shown, flip = example(position), bool(plan.flips[column])
        except UserError:
            if not skip_unreadable:
                raise
            batch["indices"][row] = FILLER
            continue
        if crops is None:
            image, boxes, keep, factors = _resized(shown, plan.sizes[column], flip)
        else:
            rng = np.random.default_rng([*seed, column])
            image, boxes, keep, factors = random_crop(rng, shown.image, shown.boxes, crops, flip)
        height, width = image.shape[:2]
        batch["images"][row, :height, :width] = image
        batch["image_sizes"][row] = height, width
        batch["scale_factors"][row] = factors
        rows = np.flatnonzero(keep & ~shown.is_crowd)
        batch["boxes"][row, : len(rows)] = boxes[rows]
        batch["labels"][row, : len(rows)] = shown.labels[rows]
        batch["box_mask"][row, : len(rows)] = True
    return batch


def _resized(example: Example, size: Int[np.ndarray, "2"], flip: bool) -> Transformed:
    height, width = size.tolist()
    factors = np.array([width / example.image.shape[1], height / example.image.shape[0]])
    image = resize_image(example.image, (height, width))
    boxes = scale_boxes(example.boxes, factors, (height, width))
    if flip:
        image, boxes = flip_image(image), flip_boxes(boxes, width)
    return image, boxes, np.ones(len(boxes), bool), factors
