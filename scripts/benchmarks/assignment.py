"""ATSS: candidates from a window around each box, against the full matrix of boxes and locations."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array

from benchmarks.inputs import BOX_SLOTS, random_boxes
from benchmarks.measure import Case, Row, Say, measure
from gfl_jax.config import Detector
from gfl_jax.targets.atss import assign_atss
from gfl_jax.verification.atss_dense import assign_atss_dense


def assignment_rows(detector: Detector, size: tuple[int, int], repeats: int, say: Say) -> list[list[Row]]:
    """Times both methods. Returns a group of rows for one image and one for two, of BOX_SLOTS boxes each."""
    groups = []
    for batch_size in (1, 2):
        say(f"atss: compiling for {batch_size} x {size[0]}x{size[1]}")
        window = _case("window", assign_atss, detector, batch_size, size)
        matrix = _case("full matrix", assign_atss_dense, detector, batch_size, size, window.name)
        groups.append(measure([window, matrix], repeats, say))
    return groups


def _case(
    name: str,
    assign: Callable[..., Array],
    detector: Detector,
    batch_size: int,
    size: tuple[int, int],
    against: str | None = None,
) -> Case:
    """Makes a case with boxes anywhere in the image, on a canvas without padding."""
    grid_sizes = tuple((-(-size[0] // stride), -(-size[1] // stride)) for stride in detector.strides)
    boxes = random_boxes(np.random.default_rng(0), (batch_size, BOX_SLOTS), size)
    box_mask = np.ones(boxes.shape[:2], bool)
    valid_sizes = np.tile(np.array(grid_sizes, np.int32), (batch_size, 1, 1))
    arguments = jax.device_put((boxes, box_mask, valid_sizes))

    def assign_one(boxes: Array, box_mask: Array, valid_sizes: Array) -> Array:
        return assign(boxes, box_mask, valid_sizes, grid_sizes, detector.strides)

    compiled = jax.jit(jax.vmap(assign_one)).lower(*arguments).compile()
    return Case("atss", name, size, batch_size, lambda: compiled(*arguments), against, compiled)
