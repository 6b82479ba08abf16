"""Detections of a whole data set, and their COCO metrics."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from gfl_jax.config import Config
from gfl_jax.data.ground_truth import coco_ground_truth
from gfl_jax.data.loader import eval_batches
from gfl_jax.data.plan import evaluation_plan
from gfl_jax.data.source import Source
from gfl_jax.evaluation.coco_metrics import Backend, CocoMetrics, evaluate_coco
from gfl_jax.evaluation.results import Result, to_coco_results
from gfl_jax.inference.views import PLAIN, View, views_of
from gfl_jax.mesh import check_batch_size, gather, put_batch
from gfl_jax.progress import progress
from gfl_jax.structures import Batch, Detections

Detect = Callable[[Any, Sequence[Batch]], Detections]


def evaluate_source(
    detect: Detect,
    variables: Any,
    source: Source,
    config: Config,
    mesh: Mesh,
    backend: Backend = "pycocotools",
    keep: Callable[[list[Result]], None] = lambda _: None,
) -> tuple[CocoMetrics, list[Result]]:
    """Detects in every picture once and compares with the ground truth.

    Args:
      detect: from `make_detect_in_views`.
      variables: of the network, on the devices of `mesh`.
      source: the evaluation data; `config.dataset.eval_json` is its ground truth if given.
      config: the experiment.
      mesh: batches are split over its devices.
      backend: what computes the metrics.
      keep: gets the detections before the metrics are computed, which may fail.

    Returns:
      The metrics and the detections as COCO results.
    """
    results = detect_source(detect, variables, source, config, mesh)
    keep(results)
    truth = config.dataset.eval_json or coco_ground_truth(source)
    return evaluate_coco(truth, results, config.inference.max_detections, backend), results


def detect_source(detect: Detect, variables: Any, source: Source, config: Config, mesh: Mesh) -> list[Result]:
    """The detections of every picture, as COCO results, in the order of the evaluation plan.

    With several processes each of them reads its own pictures, and gets the detections of all.
    """

    def detect_and_name(variables: Any, batches: Sequence[Batch]) -> tuple[Array, Detections]:
        return batches[0].indices, detect(variables, batches)

    results: list[Result] = []
    views = views_of(config.inference)
    for _, (indices, detections) in each_group(detect_and_name, variables, source, config, mesh, views):
        results += _to_results(indices, detections, source)
    return results


def each_batch(
    function: Callable[[Any, Batch], Any], variables: Any, source: Source, config: Config, mesh: Mesh
) -> Iterator[tuple[Batch, Any]]:
    """Runs a compiled function (variables, batch) on each picture once, with a bar on terminals.

    Yields:
      Each batch and what the function gave for it, as numpy arrays.
    """
    plain = lambda variables, batches: function(variables, batches[0])  # noqa: E731
    for batches, result in each_group(plain, variables, source, config, mesh, (PLAIN,)):
        yield batches[0], result


def each_group(
    function: Callable[[Any, Sequence[Batch]], Any],
    variables: Any,
    source: Source,
    config: Config,
    mesh: Mesh,
    views: Sequence[View],
) -> Iterator[tuple[Sequence[Batch], Any]]:
    """Runs a function (variables, batches) on each group of pictures, shown in several views.

    Yields:
      This process's rows of the batches of a group, one for each view, and what the function gave for
      all rows, as numpy arrays.
    """
    check_batch_size(config.loader.eval_batch_size, mesh, "config.loader.eval_batch_size")
    steps = len(evaluation_plan(source.sizes, source.file_names, config))
    with eval_batches(source, config, jax.process_index(), jax.process_count(), views) as batches:
        groups = zip(*[batches] * len(views), strict=True)  # the views of a group follow one another
        given = _one_ahead((group, function(variables, put_batch(group, mesh))) for group in groups)
        for group, result in progress(given, "evaluating", steps):
            yield group, gather(result)


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
