"""Detections of a whole data set, and their COCO metrics."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gfl_jax.config import Config
from gfl_jax.data.ground_truth import coco_ground_truth
from gfl_jax.data.loader import eval_batches
from gfl_jax.data.plan import evaluation_plan
from gfl_jax.data.source import Source
from gfl_jax.evaluation.coco_metrics import Backend, CocoMetrics, evaluate_coco
from gfl_jax.evaluation.results import Result, to_coco_results
from gfl_jax.mesh import check_batch_size, put_batch
from gfl_jax.progress import progress
from gfl_jax.structures import Batch, Detections

Detect = Callable[[Any, Batch], Detections]


def evaluate_source(
    detect: Detect,
    variables: Any,
    source: Source,
    config: Config,
    mesh: Mesh,
    backend: Backend = "pycocotools",
) -> tuple[CocoMetrics, list[Result]]:
    """Detects in every picture once and compares with the ground truth.

    Args:
      detect: from `make_detect`.
      variables: of the network, on the devices of `mesh`.
      source: the evaluation data; `config.dataset.eval_json` is its ground truth if given.
      config: the experiment.
      mesh: batches are split over its devices.
      backend: what computes the metrics.

    Returns:
      The metrics and the detections as COCO results.
    """
    results = detect_source(detect, variables, source, config, mesh)
    truth = config.dataset.eval_json or coco_ground_truth(source)
    return evaluate_coco(truth, results, config.inference.max_detections, backend), results


def detect_source(detect: Detect, variables: Any, source: Source, config: Config, mesh: Mesh) -> list[Result]:
    """The detections of every picture, as COCO results, in the order of the evaluation plan."""
    results: list[Result] = []
    for batch, detections in each_batch(detect, variables, source, config, mesh):
        results += _to_results(np.asarray(batch.indices), detections, source)
    return results


def each_batch(
    function: Callable[[Any, Batch], Any], variables: Any, source: Source, config: Config, mesh: Mesh
) -> Iterator[tuple[Batch, Any]]:
    """Runs a compiled function (variables, batch) on each picture once, with a bar on terminals.

    Yields:
      Each batch and what the function gave for it, as numpy arrays.
    """
    check_batch_size(config.loader.eval_batch_size, mesh, "config.loader.eval_batch_size")
    steps = len(evaluation_plan(source.sizes, source.file_names, config))
    with eval_batches(source, config) as batches:
        given = _one_ahead((batch, function(variables, put_batch(batch, mesh))) for batch in batches)
        for batch, result in progress(given, "evaluating", steps):
            yield batch, jax.device_get(result)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each drawn before the one before it is given: the device always has work."""
    waiting = next(items, None)
    while waiting is not None:
        following = next(items, None)
        yield waiting
        waiting = following


def _to_results(indices: np.ndarray, detections: Detections, source: Source) -> list[Result]:
    results = []
    for row, index in enumerate(indices):
        if index < 0:  # a filler that completes the batch
            continue
        found = np.asarray(detections.mask[row])
        results += to_coco_results(
            np.asarray(detections.boxes[row])[found],
            np.asarray(detections.scores[row])[found],
            np.asarray(detections.labels[row])[found],
            int(source.image_ids[index]),
            source.category_ids,
        )
    return results
