"""From uint8 pictures to detections in one compiled function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gfl_jax import config
from gfl_jax.inference.decode import Candidates, decode
from gfl_jax.inference.nms import nms
from gfl_jax.models.detector import DetectorNetwork
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.structures import Batch, Detections, HeadOutputs


def make_detect(
    model: DetectorNetwork, normalization: config.Normalization, inference: config.Inference
) -> Callable[[Any, Batch], Detections]:
    """A jitted function (variables, batch) -> Detections in pixels of the original pictures.

    It compiles once for each batch shape. `variables` are {"params": ..., "batch_stats": ...}.
    """

    @jax.jit
    def detect(variables: Any, batch: Batch) -> Detections:
        images = normalize_images(batch.images, batch.image_sizes, normalization, model.dtype)
        outputs: Any = model.apply(variables, images)
        detections = detections_from_outputs(outputs, batch, model.detector, inference)
        scale = jnp.tile(batch.scale_factors, 2)[:, None]
        return dataclasses.replace(detections, boxes=detections.boxes / scale)

    return detect


def detections_from_outputs(
    outputs: HeadOutputs, batch: Batch, detector: config.Detector, inference: config.Inference
) -> Detections:
    """Decodes and suppresses; boxes are in pixels of the network's input."""
    candidates = decode(outputs, batch.image_sizes, detector, inference)
    return jax.vmap(lambda c: select(c, inference))(candidates)


def select(candidates: Candidates, inference: config.Inference) -> Detections:
    """Non-maximum suppression of one picture's candidates."""
    kept, found = nms(*candidates, inference.iou_threshold, inference.max_detections)
    return Detections(
        boxes=jnp.where(found[:, None], candidates.boxes[kept], 0),
        scores=jnp.where(found, candidates.scores[kept], 0),
        labels=candidates.labels[kept],
        mask=found,
    )
