"""Which images of a data set are trained on."""

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
    """Whether images of the training data are kept for evaluation."""
    others = data.tfds_dir or data.eval_json or data.eval_images
    return bool(data.holdout and data.train_json and not others)


def held_out(file_names: Sequence[str], share: float) -> Bool[np.ndarray, "images"]:
    """Which images are for evaluation: a share of them, at least one, whatever their order.

    They are the first ones by the hash of their names, so that an image more moves hardly any other.

    Raises:
      UserError: there are too few images to divide.
    """
    count = max(1, round(share * len(file_names)))
    if count >= len(file_names):
        raise UserError(
            f"config.dataset.holdout={share}: {len(file_names)} images cannot be divided into training and "
            "evaluation; add images, or name others for evaluation (eval_json and eval_images)"
        )
    order = sorted(range(len(file_names)), key=lambda i: hashlib.sha256(file_names[i].encode()).digest())
    chosen = np.zeros(len(file_names), bool)
    chosen[order[:count]] = True
    return chosen


def select_for_training(source: Source, data: Dataset, num_classes: int) -> Source:
    """The images to train on, as mmdetection chooses them from COCO; a line tells what was left out.

    Args:
      source: the whole training data.
      data: its `filter_empty` and `min_size` are used.
      num_classes: of the detector.

    Raises:
      UserError: the data have another number of classes, or nothing can be learned from what is left.
    """
    if len(source.categories) != num_classes:
        raise UserError(
            f"config.detector.num_classes={num_classes}: {source.name} has {len(source.categories)} "
            "categories; set it to that"
        )
    table = source.annotations
    empty = ~table.annotated & data.filter_empty
    small = ~empty & (table.sizes.min(axis=1) < data.min_size)
    if empty.any() or small.any():
        _LOGGER.info(
            "%s: %d of %d images are trained on; left out: %d without annotations, %d with a side below "
            "%d pixels",
            *(source.name, (~(empty | small)).sum(), len(source), empty.sum(), small.sum(), data.min_size),
        )
        source = source.take(np.flatnonzero(~(empty | small)))
    boxes = source.annotations.is_crowd
    if boxes.all():  # also if there is none
        raise UserError(
            f"{source.name}: nothing can be learned from it: {len(source)} images with {len(boxes)} usable "
            f"boxes, {boxes.sum()} of them crowds; check the annotations"
        )
    return source
