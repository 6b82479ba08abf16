"""Selects the images of a data set for training."""

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from gfl_jax.config import Dataset
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


def holds_out(data: Dataset) -> bool:
    """Whether a part of the training data is held out for evaluation."""
    others = data.tfds_dir or data.eval_json or data.eval_images
    return bool(data.holdout and data.train_json and not others)


def held_out(file_names: Sequence[str], share: float) -> Bool[np.ndarray, "images"]:
    """Chooses a share of the images, at least one, for evaluation; their order does not matter.

    The held-out images are the first ones by the hash of their names. So a new image changes the choice of
    the others very little.

    Raises:
      UserError: there are too few images to divide.
    """
    count = max(1, round(share * len(file_names)))
    if count >= len(file_names):
        raise UserError(
            f"config.dataset.holdout={share}: {len(file_names)} images cannot be divided into training and "
            "evaluation; add images, or name other images for evaluation (eval_json and eval_images)"
        )
    order = sorted(range(len(file_names)), key=lambda i: hashlib.sha256(file_names[i].encode()).digest())
    chosen = np.zeros(len(file_names), bool)
    chosen[order[:count]] = True
    return chosen


def select_for_training(source: Source, data: Dataset, num_classes: int) -> Source:
    """Selects the training images as mmdetection does for COCO, and logs how many are left out.

    Args:
      source: all training data.
      data: its `filter_empty` and `min_size` are used.
      num_classes: number of classes of the detector.

    Raises:
      UserError: the data set has another number of classes, or no usable boxes are left.
    """
    if len(source.categories) != num_classes:
        raise UserError(
            f"config.detector.num_classes={num_classes}: {source.name} has {len(source.categories)} "
            "categories; set num_classes to this number"
        )
    table = source.annotations
    empty = ~table.annotated & data.filter_empty
    small = ~empty & (table.sizes.min(axis=1) < data.min_size)
    if empty.any() or small.any():
        _LOGGER.info(
            "%s: %d of %d images are used for training; left out: %d without annotations, %d with a side "
            "below %d pixels",
            *(source.name, (~(empty | small)).sum(), len(source), empty.sum(), small.sum(), data.min_size),
        )
        source = source.take(np.flatnonzero(~(empty | small)))
    boxes = source.annotations.is_crowd
    if boxes.all():  # true also without any boxes
        raise UserError(
            f"{source.name}: has no boxes to train on: {len(source)} images with {len(boxes)} valid boxes, "
            f"{boxes.sum()} of them crowds; check the annotations"
        )
    return source
