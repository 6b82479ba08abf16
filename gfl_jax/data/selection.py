"""Which images of a data set are trained on."""

import logging

import numpy as np

from gfl_jax.config import Dataset
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


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
