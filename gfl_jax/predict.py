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
from gfl_jax.data.transforms import resize_image, resized_sizes
from gfl_jax.errors import UserError
from gfl_jax.inference.detect import make_detect
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
    detect = make_detect(model, config.normalization, config.inference)
    for path in paths:
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); name pictures") from error
        image = decode_image(encoded, str(path))
        detections: Detections = jax.device_get(detect(variables, batch_of_one(image, config)))
        found = np.asarray(detections.mask[0])
        yield Prediction(
            path,
            image,
            np.asarray(detections.boxes[0])[found],
            np.asarray(detections.scores[0])[found],
            np.asarray(detections.labels[0])[found],
        )


def batch_of_one(image: UInt8[np.ndarray, "height width 3"], config: Config) -> Batch:
    """Resizes a picture as for evaluation and puts it on a bucket's canvas, or on one of its own."""
    original = np.array([image.shape[:2]], np.int32)
    size = resized_sizes(original, config.resize.short_side, config.resize.long_side)
    buckets = by_area(config.loader.buckets)
    fitting = np.flatnonzero(fits(size, buckets)[0])
    canvas = buckets[fitting[0]] if fitting.size else tuple(-(-size[0] // CANVAS_STEP) * CANVAS_STEP)
    height, width = size[0].tolist()
    images = np.zeros((1, *canvas, 3), np.uint8)
    images[0, :height, :width] = resize_image(image, (height, width))
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
