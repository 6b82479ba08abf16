"""The measures of a whole data set, in flat numpy arrays."""

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


class Found(NamedTuple):
    """The final detections of a data set, best first. Pixels are those of the original pictures."""

    images: Int[np.ndarray, "n"]  # position of the picture in the source
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, "n"]
    quality: Float[np.ndarray, "n"]  # predicted
    iou: Float[np.ndarray, "n"]  # with the true box of the same class that it overlaps most
    points: Float[np.ndarray, "n 2"]  # the locations they were predicted at
    strides: Float[np.ndarray, "n 2"]  # pixels in a stride, along x and y
    probabilities: Float[np.ndarray, "n 4 bins"]  # of the left, top, right and bottom side


class Collected(NamedTuple):
    """Of all positives, all true boxes (crowds left out) and all detections of a data set."""

    quality: Float[np.ndarray, "positives"] | None  # predicted
    labels: dict[str, Float[np.ndarray, "positives"]]  # "IoU", "centerness"
    best: dict[str, Float[np.ndarray, "truths"]]  # the best label of each true box
    sizes: Float[np.ndarray, "truths"]  # square root of the area, original pixels
    found: Found | None


def collect(measure: Measure, variables: Any, source: Source, config: Config, mesh: Mesh) -> Collected:
    """Measures each picture of a source once.

    Args:
      measure: from `make_measure`, or `make_label_measure`.
      variables: of the network, on the devices of `mesh`; None without a network.
      source: the evaluation data.
      config: of the experiment.
      mesh: batches are split over its devices.
    """
    pictures = [
        _of_picture(*jax.tree.map(operator.itemgetter(row), (batch, measures)))
        for batch, measures in each_batch(measure, variables, source, config, mesh)
        for row in np.flatnonzero(batch.indices >= 0)  # the others complete a batch
    ]
    found = [picture.found for picture in pictures if picture.found is not None]
    quality = [picture.quality for picture in pictures if picture.quality is not None]
    return Collected(
        quality=np.concatenate(quality) if quality else None,
        labels=_concatenated([picture.labels for picture in pictures]),
        best=_concatenated([picture.best for picture in pictures]),
        sizes=np.concatenate([picture.sizes for picture in pictures]),
        found=_best_first(found) if found else None,
    )


def best_labels(
    box_index: Int[np.ndarray, "positives"], labels: Float[np.ndarray, "positives"], num_boxes: int
) -> Float[np.ndarray, "boxes"]:
    """The highest label among the positives of each box; 0 for a box without one."""
    best = np.zeros(num_boxes)
    np.maximum.at(best, box_index, labels)
    return best


def _of_picture(batch: Any, measures: Any) -> Collected:
    """What is collected of one picture: a row of a batch and of its measures."""
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
        found=None if measures.found is None else _found(batch, measures.found),
    )


def _found(batch: Any, measures: Any) -> Found:
    kept, scale = np.flatnonzero(measures.detections.mask), batch.scale_factors
    return Found(
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


def _best_first(parts: list[Found]) -> Found:
    found = Found(*map(np.concatenate, zip(*parts, strict=True)))
    order = np.argsort(-found.scores, kind="stable")
    return Found(*(field[order] for field in found))
