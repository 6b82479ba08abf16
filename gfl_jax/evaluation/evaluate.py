"""Detects objects in a whole data set and computes the COCO metrics."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from gfl_jax.config import Config
from gfl_jax.console.progress import progress
from gfl_jax.data.as_coco import coco_ground_truth
from gfl_jax.data.categories import Categories, listed
from gfl_jax.data.coco_file import parse_coco
from gfl_jax.data.loader import eval_batches, make_source
from gfl_jax.data.plan import evaluation_plan
from gfl_jax.data.source import Source, match_classes
from gfl_jax.errors import UserError
from gfl_jax.evaluation.coco_metrics import Backend, CocoMetrics, evaluate_coco
from gfl_jax.evaluation.coco_truth import restricted
from gfl_jax.evaluation.results import Result, to_coco_results
from gfl_jax.inference.test_time_augmentation import DetectInViews
from gfl_jax.inference.views import PLAIN, View, views_of
from gfl_jax.parallel.mesh import gather, put_batch, round_up_batch
from gfl_jax.structures import Batch, Detections

_LOGGER = logging.getLogger(__name__)


def open_evaluation(config: Config, classes: Categories | None, owner: str | None) -> Source:
    """Opens the evaluation data of a config with the labels of a trained detector (see `in_labels_of`).

    Raises:
      UserError: the data are missing or broken, or share no class with the detector.
    """
    return in_labels_of(make_source(config, "eval"), config, classes, owner)


def in_labels_of(source: Source, config: Config, classes: Categories | None, owner: str | None) -> Source:
    """Gives a source the labels of a trained detector, and logs the classes that only one of them has.

    Args:
      source: the evaluation data.
      config: config of the detector.
      classes: classes of the detector; None: unknown.
      owner: owner of these classes, for messages; None: there is no detector.

    Raises:
      UserError: the source and the detector have no class in common, or, if the classes are unknown,
        different numbers of classes.
    """
    if classes is None:
        if len(source.categories) != config.detector.num_classes:
            raise UserError(
                f"config.detector.num_classes={config.detector.num_classes}: {source.name} has "
                f"{len(source.categories)} categories; name a data set with the classes of the detector"
            )
        if owner is not None:
            _LOGGER.warning(
                "%s: has no categories.json; its classes are assumed to be those of %s, in the same order",
                *(owner, source.name),
            )
        return source
    matched = match_classes(source, classes, f"the classes of {owner}")
    if matched.missing:
        _LOGGER.info(
            "%s: lacks the classes %s of the detector; detections of them are left out",
            *(matched.source.name, listed(matched.missing)),
        )
    if matched.foreign:
        _LOGGER.warning(
            "%s: has the classes %s, which the detector lacks; AP does not include them",
            *(matched.source.name, listed(matched.foreign)),
        )
    return matched.source


def evaluate_source(
    detect: DetectInViews,
    variables: Any,
    source: Source,
    config: Config,
    mesh: Mesh,
    backend: Backend = "hotcoco",
    keep: Callable[[list[Result]], None] = lambda _: None,
) -> tuple[CocoMetrics | None, list[Result]]:
    """Detects objects in all images and computes the metrics.

    Args:
      detect: function from `make_detect_in_views`.
      variables: variables of the network, on the devices of `mesh`.
      source: the evaluation data, with the classes of the detector.
      config: the experiment.
      mesh: the devices that share each batch.
      backend: library that matches boxes for the metrics.
      keep: called with the detections before the metrics are computed, because that may fail.

    Returns:
      The metrics (None if the data have no annotations), and the detections as COCO results.
    """
    results = detect_source(detect, variables, source, config, mesh)
    assert results is not None  # without `stop` there is always a result
    keep(results)
    return measure_results(source, results, config.inference.max_detections, backend), results


def measure_results(
    source: Source, results: list[Result], max_detections: int = 100, backend: Backend = "hotcoco"
) -> CocoMetrics | None:
    """Computes the metrics of detections in a source; None if it has no annotations.

    Only classes that the data set and the detector share count.
    """
    if not source.annotated:
        return None
    truth = source.truth or parse_coco(coco_ground_truth(source), source.name, with_files=False)
    truth = restricted(truth, set(source.image_ids), set(source.categories))
    return evaluate_coco(truth, results, max_detections, backend)


def detect_source(
    detect: DetectInViews,
    variables: Any,
    source: Source,
    config: Config,
    mesh: Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> list[Result] | None:
    """Detects objects in all images; the COCO results are in the order of the evaluation plan.

    With several processes, each process reads its own images and gets the detections of all processes.

    Args:
      detect: function from `make_detect_in_views`.
      variables: variables of the network, on the devices of `mesh`.
      source: the images.
      config: the experiment.
      mesh: the devices that share each batch.
      stop: called after each batch; True stops the evaluation. It must return the same in all processes.

    Returns:
      The detections as COCO results, or None if the evaluation was stopped.
    """

    def detect_and_name(variables: Any, batches: Sequence[Batch]) -> tuple[Array, Detections]:
        return batches[0].indices, detect(variables, batches)

    results: list[Result] = []
    views = views_of(config.inference)
    for _, (indices, detections) in each_group(detect_and_name, variables, source, config, mesh, views):
        results += _to_results(indices, detections, source)
        if stop():
            return None
    return results


def each_batch(
    function: Callable[[Any, Batch], Any], variables: Any, source: Source, config: Config, mesh: Mesh
) -> Iterator[tuple[Batch, Any]]:
    """Runs a compiled function (variables, batch) once on each image; shows a progress bar on terminals.

    Yields:
      Each batch, and the result of the function for it, as numpy arrays.
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
    skip_unreadable: bool = False,
    what: str = "evaluating",
) -> Iterator[tuple[Sequence[Batch], Any]]:
    """Runs a function (variables, batches) on each group of images in several views.

    Unreadable images are errors, or fillers with `skip_unreadable`. `what` is the label of the progress bar.

    Yields:
      The batches of a group, one for each view, with the rows of this process; and the result of the function
      for the rows of all processes, as numpy arrays.
    """
    full = round_up_batch(config.loader.eval_batch_size, mesh)
    config = dataclasses.replace(config, loader=dataclasses.replace(config.loader, eval_batch_size=full))
    steps = len(evaluation_plan(source.sizes, config))
    process = jax.process_index(), jax.process_count()
    with eval_batches(source, config, *process, views, skip_unreadable=skip_unreadable) as batches:
        groups = zip(*[batches] * len(views), strict=True)  # the views of a group are consecutive
        given = _one_ahead((group, function(variables, put_batch(group, mesh))) for group in groups)
        for group, result in progress(given, what, steps):
            yield group, gather(result)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yields the same items, but fetches the next one before it yields an item, so the device stays busy."""
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
            source.image_ids[index],
            source.category_ids,
        )
    return results
