"""Detections in the images of any source, in evaluation batches, or in smaller batches for large images."""

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
    """The detections of one image, in pixels of that image, as numpy arrays without padding."""

    position: int  # of the image in the source
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


# Takes a source, and a dictionary that gets the error message of each image that needs too much memory.
Predict = Callable[[Source, dict[int, str]], Iterator[Prediction]]


class Run(NamedTuple):
    """Images that go through the network in batches of one size."""

    positions: np.ndarray  # of the images in the source
    buckets: tuple[Shape, ...]
    batch: int  # images per batch
    devices: int


def make_predict(detector: Trained) -> Predict:
    """Makes a function that detects in each image of a source and skips images that cannot be read.

    Predictions come in the order of `plan_runs` and of the evaluation plan. If all images have the same size,
    this is the order of the source. The function compiles once for each shape of a batch. If memory does not
    suffice for a batch, its images go through the network one by one. Images that are too large even then
    get an error message in the dictionary.
    """
    config = detector.config
    views = views_of(config.inference)

    @functools.cache
    def on_devices(device_count: int) -> tuple[Any, Any, Any]:
        mesh = make_mesh(devices=jax.devices()[:device_count])
        return mesh, *detector.on(mesh)

    def predict_run(source: Source, run: Run) -> Iterator[Prediction]:
        mesh, variables, detect = on_devices(run.devices)
        loader = dataclasses.replace(config.loader, buckets=run.buckets, eval_batch_size=run.batch, workers=0)
        fitting, part = dataclasses.replace(config, loader=loader), source.take(run.positions)
        for batches, found in each_group(detect, variables, part, fitting, mesh, views, True, "predicting"):
            indices = np.min([b.indices for b in batches], axis=0)  # -1 if a view was not read
            for row in np.flatnonzero(indices >= 0):
                mask = np.asarray(found.mask[row])
                arrays = (np.asarray(x[row])[mask] for x in (found.boxes, found.scores, found.labels))
                yield Prediction(int(run.positions[indices[row]]), *arrays)

    def predict(source: Source, too_large: dict[int, str]) -> Iterator[Prediction]:
        runs = plan_runs(source.sizes, config, jax.device_count())
        while runs:
            run, left = runs[0], dict.fromkeys(runs.pop(0).positions.tolist())
            try:
                for found in predict_run(source, run):
                    del left[found.position]
                    yield found
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if run.batch > 1:
                    runs.insert(0, run._replace(positions=np.array(list(left)), batch=1, devices=1))
                else:
                    too_large |= {i: _too_large_message(source, i) for i in left}

    return predict


def plan_runs(sizes: Int[np.ndarray, "images 2"], config: Config, device_count: int) -> list[Run]:
    """Decides which images go through the network together, and in which shapes.

    Images that fit in the config's buckets go in the config's evaluation batches. Other images get additional
    canvases. Their batches have at most as many pixels as the config's largest batch, so they do not need
    more memory. If there are fewer images than a batch has, they go one by one.
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


def _too_large_message(source: Source, i: int) -> str:
    height, width = source.sizes[i].tolist()
    return (
        f"{source.file_names[i]}: its {height} x {width} pixels need more memory than is available; "
        "make it smaller, or cut it into parts"
    )
