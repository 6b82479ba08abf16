"""Detections in single pictures, whatever their sizes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from gfl_jax.config import Config
from gfl_jax.data.buckets import by_area, fits
from gfl_jax.data.images import decode_image
from gfl_jax.data.transforms import flip_image, resize_image, resized_sizes
from gfl_jax.errors import UserError
from gfl_jax.inference.test_time_augmentation import make_detect_in_views
from gfl_jax.inference.views import PLAIN, View, view_canvas, view_sizes, views_of
from gfl_jax.models.detector import build_detector
from gfl_jax.structures import Batch, Detections

CANVAS_STEP = 128  # a picture that fits in no bucket gets a canvas of multiples of this


class Prediction(NamedTuple):
    """The detections of one picture, in its own pixels; numpy arrays without padding."""

    path: Path
    image: UInt8[np.ndarray, "height width 3"]  # RGB
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def predict(config: Config, variables: Any, paths: Sequence[Path]) -> Iterator[Prediction]:
    """Detects in pictures, one after the other; compiles once for each canvas that they need.

    Raises:
      UserError: a file is missing or is not a picture.
    """
    model = build_detector(config.detector, config.precision)
    detect = make_detect_in_views(model, config.normalization, config.inference)
    views = views_of(config.inference)
    for path in paths:
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); name pictures") from error
        image = decode_image(encoded, str(path))
        batches = [batch_of_one(image, config, view) for view in views]
        detections: Detections = jax.device_get(detect(variables, batches))
        found = np.asarray(detections.mask[0])
        yield Prediction(
            path,
            image,
            np.asarray(detections.boxes[0])[found],
            np.asarray(detections.scores[0])[found],
            np.asarray(detections.labels[0])[found],
        )


def batch_of_one(image: UInt8[np.ndarray, "height width 3"], config: Config, view: View = PLAIN) -> Batch:
    """Resizes a picture as for evaluation and puts it on a bucket's canvas, or on one of its own."""
    original = np.array([image.shape[:2]], np.int32)
    size = resized_sizes(original, config.resize.short_side, config.resize.long_side)
    buckets = by_area(config.loader.buckets or ())
    fitting = np.flatnonzero(fits(size, buckets)[0])
    canvas = buckets[fitting[0]] if fitting.size else tuple(-(-size[0] // CANVAS_STEP) * CANVAS_STEP)
    size, canvas = view_sizes(size, view.scale), view_canvas(canvas, view.scale)
    height, width = size[0].tolist()
    shown = resize_image(image, (height, width))
    images = np.zeros((1, *canvas, 3), np.uint8)
    images[0, :height, :width] = flip_image(shown) if view.flip else shown
    arrays = (
        images,
        size,
        (size / original)[:, ::-1].astype(np.float32),
        np.zeros(1, np.int32),
        np.zeros((1, 8, 4), np.float32),
        np.zeros((1, 8), np.int32),
        np.zeros((1, 8), bool),
    )
    return Batch(*map(jax.numpy.asarray, arrays))
