"""Detections in the images of any source, in the batches of an evaluation; smaller ones of large images."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from gfl_jax.config import Config
from gfl_jax.data.buckets import Shape, by_area, fits
from gfl_jax.data.plan import evaluation_buckets
from gfl_jax.data.source import Source
from gfl_jax.data.transforms import resized_sizes
from gfl_jax.evaluation.evaluate import each_group
from gfl_jax.inference.views import views_of
from gfl_jax.parallel.mesh import make_mesh
from gfl_jax.training.trained import Trained


class Prediction(NamedTuple):
    """The detections of one image, in its own pixels; numpy arrays without padding."""

    position: int  # in the source
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


# Of a source, whose images that need too much memory get a line in the dictionary.
Predict = Callable[[Source, dict[int, str]], Iterator[Prediction]]


class Run(NamedTuple):
    """Images that go through the network in batches of one size."""

    positions: np.ndarray  # in the source
    buckets: tuple[Shape, ...]
    batch: int
    devices: int


def make_predict(detector: Trained) -> Predict:
    """A function that detects in each image of a source, and leaves out those that cannot be read.

    Predictions come in the order of `plan_runs` and of the evaluation plan: that of the source, where all
    images are of one size. It compiles once for each shape of a batch. Where memory does not suffice for a
    batch, its images go one by one; those that are too large even then get a line in the dictionary.
    """
    config = detector.config
    views = views_of(config.inference)

    @functools.cache
    def on(device_count: int) -> tuple[Any, Any, Any]:
        mesh = make_mesh(devices=jax.devices()[:device_count])
        return mesh, *detector.on(mesh)

    def in_run(source: Source, run: Run) -> Iterator[Prediction]:
        mesh, placed, detect = on(run.devices)
        loader = dataclasses.replace(config.loader, buckets=run.buckets, eval_batch_size=run.batch, workers=0)
        fitting, part = dataclasses.replace(config, loader=loader), source.take(run.positions)
        for batches, found in each_group(detect, placed, part, fitting, mesh, views, True, "predicting"):
            indices = np.min([b.indices for b in batches], axis=0)  # of what was read in all views
            for row in np.flatnonzero(indices >= 0):
                mask = np.asarray(found.mask[row])
                arrays = (np.asarray(x[row])[mask] for x in (found.boxes, found.scores, found.labels))
                yield Prediction(int(run.positions[indices[row]]), *arrays)

    def predict(source: Source, too_large: dict[int, str]) -> Iterator[Prediction]:
        runs = plan_runs(source.sizes, config, jax.device_count())
        while runs:
            run, left = runs[0], dict.fromkeys(runs.pop(0).positions.tolist())
            try:
                for found in in_run(source, run):
                    del left[found.position]
                    yield found
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if run.batch > 1:
                    runs.insert(0, run._replace(positions=np.array(list(left)), batch=1, devices=1))
                else:
                    too_large |= {i: _too_large(source, i) for i in left}

    return predict


def plan_runs(sizes: Int[np.ndarray, "images 2"], config: Config, device_count: int) -> list[Run]:
    """Which images go through the network together, and in which shapes.

    What fits in the config's buckets goes in its evaluation batches. What fits in none gets a canvas of its
    own, and batches with no more pixels than the config's largest, so that they need no more memory. Where
    there are fewer images than a batch, they go one by one.
    """
    shapes = evaluation_buckets(sizes, config)
    given = by_area(config.loader.buckets or shapes)
    added = [shape for shape in shapes if shape not in given]
    shown = resized_sizes(sizes, config.resize.short_side, config.resize.long_side)
    smallest = fits(shown, (*given, *added)).argmax(axis=1)
    full = config.loader.eval_batch_size
    parts = [(np.flatnonzero(smallest < len(given)), tuple(given), full)]
    for number, canvas in enumerate(added, len(given)):
        batch = min(full, full * math.prod(given[-1]) // math.prod(canvas))
        parts.append((np.flatnonzero(smallest == number), (canvas,), batch))
    runs = []
    for positions, buckets, batch in parts:
        batch = batch if 1 <= batch <= len(positions) else 1
        devices = device_count if batch >= device_count else 1
        if len(positions):
            runs.append(Run(positions, buckets, batch // devices * devices, devices))
    return runs


def _too_large(source: Source, i: int) -> str:
    height, width = source.sizes[i].tolist()
    return (
        f"{source.file_names[i]}: with {height} x {width} pixels it needs more memory than there is; "
        "make it smaller, or cut it into parts"
    )
