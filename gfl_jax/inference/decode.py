"""Decodes head outputs to scored candidate boxes, with a limited number per level."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax import config
from gfl_jax.axes.assigner import assigner_locations
from gfl_jax.axes.box_representation import (
    BoxRepresentation,
    decode_boxes,
    num_parameters,
    side_variances,
)
from gfl_jax.axes.quality import final_scores
from gfl_jax.boxes import clip_boxes
from gfl_jax.structures import HeadOutputs
from gfl_jax.targets.locations import flatten_levels, grid_sizes_of

RUN = 16  # length of the runs of values whose maxima `top_of_many` compares first


class Candidates(NamedTuple):
    """Candidate boxes, each of one class, before non-maximum suppression."""

    boxes: Float[Array, "batch candidates 4"]  # pixels of the network's input
    scores: Float[Array, "batch candidates"]
    labels: Int[Array, "batch candidates"]
    mask: Bool[Array, "batch candidates"]  # False: score not above threshold, or empty box
    variances: Float[Array, "batch candidates 4"]  # of the sides, square pixels; zeros for dirac
    positions: Int[Array, "batch candidates"]  # indices in the order of all locations


def decode(
    outputs: HeadOutputs,
    image_sizes: Int[Array, "batch 2"],
    detector: config.Detector,
    inference: config.Inference,
) -> Candidates:
    """Selects the best (location, class) pairs of each level and decodes their boxes.

    Only the class score decides on the threshold and the selection. The score of a quality branch is
    multiplied in afterwards.

    Args:
      outputs: of the network.
      image_sizes: (height, width) of the images, to which boxes are clipped.
      detector: the config of the detector.
      inference: thresholds and counts.
    """
    box = detector.box
    locations = assigner_locations(grid_sizes_of(outputs.class_logits), detector.strides, detector.assigner)
    levels, start = [], 0
    for level, class_logits in enumerate(outputs.class_logits):
        scores = jax.nn.sigmoid(flatten_levels([class_logits], detector.num_classes))
        best, index, labels = top_pairs(scores, inference.candidates_per_level)
        numbers = flatten_levels([outputs.box[level]], 4 * num_parameters(box))
        numbers = jnp.take_along_axis(numbers, index[..., None], axis=1)
        mask = best > inference.score_threshold
        if outputs.quality:
            quality = flatten_levels([outputs.quality[level]], 1)[..., 0]
            best = final_scores(best, jnp.take_along_axis(quality, index, axis=1))
        levels.append((numbers, best, labels, mask, index + start))
        start += scores.shape[1]
    numbers, scores, labels, mask, positions = (
        jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True)
    )
    points, strides, anchors = (
        jnp.asarray(x, scores.dtype)[positions]
        for x in (locations.points, locations.strides[:, None], locations.anchors)
    )
    # The candidates become the last axis, because the last axis fills the 128 columns of a TPU's registers.
    decoded = jax.vmap(functools.partial(_boxes_and_variances, box=box), in_axes=-1, out_axes=-1)(
        *(jnp.moveaxis(x, 1, -1) for x in (numbers, points, strides, anchors))
    )
    boxes, variances = (jnp.moveaxis(x, -1, 1) for x in decoded)
    boxes = clip_boxes(boxes, image_sizes[:, None])
    # Clipping can leave the box of a location beside the image without width or height.
    mask &= jnp.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return Candidates(boxes, scores, labels, mask, variances, positions)


def _boxes_and_variances(
    numbers: Float[Array, "*n sides_times_parameters"],
    points: Float[Array, "*n 2"],
    strides: Float[Array, "*n 1"],
    anchors: Float[Array, "*n 4"],
    box: BoxRepresentation,
) -> tuple[Float[Array, "*n 4"], Float[Array, "*n 4"]]:
    """The decoded boxes in pixels, and the variances of their sides in square pixels: zeros for dirac."""
    parameters = numbers.reshape(*numbers.shape[:-1], 4, -1)
    boxes = decode_boxes(parameters, points, strides, anchors, box)
    variances = jnp.zeros_like(boxes) if box.kind == "dirac" else side_variances(parameters, strides, box)
    return boxes, variances


def top_pairs(
    scores: Float[Array, "batch locations classes"], count: int
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"], Int[Array, "batch k"]]:
    """The scores, locations and classes of the `count` best (location, class) pairs, best first.

    The best pairs lie at the `count` locations with the highest class scores, so only the pairs of these
    locations are searched.
    """
    _, locations, classes = scores.shape
    _, best = jax.lax.top_k(jnp.max(scores, axis=-1), min(count, locations))
    pairs = jnp.take_along_axis(scores, best[..., None], axis=1)
    top, index = top_of_many(pairs.reshape(scores.shape[0], -1), count)
    return top, jnp.take_along_axis(best, index // classes, axis=1), index % classes


def top_of_many(
    values: Float[Array, "batch n"], count: int
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """`jax.lax.top_k` of the `count` largest values, in a third of the time if n is much larger.

    An accelerator would sort all values. The largest ones lie in the `count` runs of neighbors with the
    largest maxima, so only these runs are sorted. The runs stay in their order, so the first of equal values
    still comes first.
    """
    batch, n = values.shape
    runs = jnp.pad(values, ((0, 0), (0, -n % RUN)), constant_values=-jnp.inf).reshape(batch, -1, RUN)
    if runs.shape[1] < 4 * count:
        return jax.lax.top_k(values, min(count, n))
    _, chosen = jax.lax.top_k(jnp.max(runs, axis=-1), count)
    chosen = jnp.sort(chosen, axis=-1)
    kept = jnp.take_along_axis(runs, chosen[..., None], axis=1).reshape(batch, -1)
    top, index = jax.lax.top_k(kept, count)
    return top, jnp.take_along_axis(chosen, index // RUN, axis=1) * RUN + index % RUN
