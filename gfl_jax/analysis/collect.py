"""Measures of a whole data set, in flat numpy arrays."""

import operator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from gfl_jax.analysis.measure import Measure
from gfl_jax.config import Config
from gfl_jax.data.source import Source
from gfl_jax.evaluation.evaluate import each_batch


class CollectedDetections(NamedTuple):
    """The final detections of a data set, best first, in pixels of the original images."""

    images: Int[np.ndarray, "n"]  # position of the image in the source
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, "n"]
    quality: Float[np.ndarray, "n"]  # predicted
    iou: Float[np.ndarray, "n"]  # with the ground-truth box of the same class that it overlaps most
    points: Float[np.ndarray, "n 2"]  # the locations that predicted them
    strides: Float[np.ndarray, "n 2"]  # pixels per stride, along x and y
    probabilities: Float[np.ndarray, "n 4 bins"]  # of the left, top, right and bottom side


class Collected(NamedTuple):
    """Measures of all positives, all ground-truth boxes (without crowds) and all detections of a data set."""

    quality: Float[np.ndarray, "positives"] | None  # predicted
    labels: dict[str, Float[np.ndarray, "positives"]]  # "IoU", "centerness"
    best: dict[str, Float[np.ndarray, "truths"]]  # the highest label of each ground-truth box
    sizes: Float[np.ndarray, "truths"]  # square root of the area, in original pixels
    detections: CollectedDetections | None


def collect(measure: Measure, variables: Any, source: Source, config: Config, mesh: Mesh) -> Collected:
    """Measures each image of a source once.

    Args:
      measure: from `make_measure`, or `make_label_measure`.
      variables: of the network, on the devices of `mesh`; None if there is no network.
      source: the evaluation data.
      config: of the experiment.
      mesh: its devices share each batch.
    """
    images = [
        _collect_image(*jax.tree.map(operator.itemgetter(row), (batch, measures)))
        for batch, measures in each_batch(measure, variables, source, config, mesh)
        for row in np.flatnonzero(batch.indices >= 0)  # the other rows only fill up the batch
    ]
    detections = [image.detections for image in images if image.detections is not None]
    quality = [image.quality for image in images if image.quality is not None]
    return Collected(
        quality=np.concatenate(quality) if quality else None,
        labels=_concatenated([image.labels for image in images]),
        best=_concatenated([image.best for image in images]),
        sizes=np.concatenate([image.sizes for image in images]),
        detections=_best_first(detections) if detections else None,
    )


def best_labels(
    box_index: Int[np.ndarray, "positives"], labels: Float[np.ndarray, "positives"], num_boxes: int
) -> Float[np.ndarray, "boxes"]:
    """The highest label among the positives of each box; 0 for a box without positives."""
    best = np.zeros(num_boxes)
    np.maximum.at(best, box_index, labels)
    return best


def _collect_image(batch: Any, measures: Any) -> Collected:
    """Collects the measures of one image, from one row of a batch and of its measures."""
    positive = measures.box_index >= 0
    box_index = measures.box_index[positive]
    labels = {name: values[positive] for name, values in measures.labels.items()}
    boxes = batch.boxes[batch.box_mask]
    sides = (boxes[:, 2:] - boxes[:, :2]) / batch.scale_factors
    return Collected(
        quality=None if measures.quality is None else measures.quality[positive],
        labels=labels,
        best={name: best_labels(box_index, values, len(boxes)) for name, values in labels.items()},
        sizes=np.sqrt(np.prod(sides, axis=1)),
        detections=None if measures.found is None else _collect_detections(batch, measures.found),
    )


def _collect_detections(batch: Any, measures: Any) -> CollectedDetections:
    kept, scale = np.flatnonzero(measures.detections.mask), batch.scale_factors
    return CollectedDetections(
        images=np.full(len(kept), batch.indices),
        boxes=measures.detections.boxes[kept] / np.tile(scale, 2),
        scores=measures.detections.scores[kept],
        quality=measures.quality[kept],
        iou=measures.iou[kept],
        points=measures.points[kept] / scale,
        strides=measures.strides[kept, None] / scale,
        probabilities=measures.probabilities[kept],
    )


def _concatenated(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _best_first(parts: list[CollectedDetections]) -> CollectedDetections:
    detections = CollectedDetections(*map(np.concatenate, zip(*parts, strict=True)))
    order = np.argsort(-detections.scores, kind="stable")
    return CollectedDetections(*(field[order] for field in detections))
