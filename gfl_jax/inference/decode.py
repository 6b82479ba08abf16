"""Head outputs to scored candidate boxes, a bounded number on each level."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax import config
from gfl_jax.boxes import clip_boxes, distances_to_boxes
from gfl_jax.losses.distribution import integral
from gfl_jax.structures import HeadOutputs
from gfl_jax.targets.locations import grid_sizes_of, make_locations


class Candidates(NamedTuple):
    """Boxes of one class each, before non-maximum suppression."""

    boxes: Float[Array, "batch candidates 4"]  # pixels of the network's input
    scores: Float[Array, "batch candidates"]
    labels: Int[Array, "batch candidates"]
    mask: Bool[Array, "batch candidates"]  # False: score not above the threshold, or no size


def decode(
    outputs: HeadOutputs,
    image_sizes: Int[Array, "batch 2"],
    detector: config.Detector,
    inference: config.Inference,
) -> Candidates:
    """Takes the best (location, class) pairs of each level and decodes their boxes.

    Args:
      outputs: of the network.
      image_sizes: (height, width) of the pictures, to which boxes are clipped.
      detector: the point of the grid.
      inference: thresholds and counts.
    """
    grid_sizes = grid_sizes_of(outputs.class_logits)
    levels = []
    for level, (class_logits, box) in enumerate(zip(outputs.class_logits, outputs.box, strict=True)):
        locations = make_locations(grid_sizes[level : level + 1], detector.strides[level : level + 1])
        flat_logits = class_logits.reshape(class_logits.shape[0], -1, class_logits.shape[-1])
        flat_box = box.reshape(box.shape[0], -1, 4, detector.box.reg_max + 1)
        scores, index, labels = top_pairs(jax.nn.sigmoid(flat_logits), inference.candidates_per_level)
        side_logits = jnp.take_along_axis(flat_box, index[..., None, None], axis=1)
        distances = integral(side_logits) * detector.strides[level]
        boxes = distances_to_boxes(jnp.asarray(locations.points, box.dtype)[index], distances)
        levels.append((clip_boxes(boxes, image_sizes[:, None]), scores, labels))
    boxes, scores, labels = (jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
    # A location beside the picture can have a box that clipping leaves without width or height.
    has_size = jnp.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return Candidates(boxes, scores, labels, (scores > inference.score_threshold) & has_size)


def top_pairs(
    scores: Float[Array, "batch locations classes"], count: int
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"], Int[Array, "batch k"]]:
    """The `count` best (location, class) pairs: scores, locations, classes, best first.

    The best pairs lie at locations whose best class is among the `count` best, so the search
    over all pairs is confined to those.
    """
    _, locations, classes = scores.shape
    _, best = jax.lax.top_k(jnp.max(scores, axis=-1), min(count, locations))
    pairs = jnp.take_along_axis(scores, best[..., None], axis=1)
    top, index = jax.lax.top_k(pairs.reshape(scores.shape[0], -1), min(count, best.shape[1] * classes))
    return top, jnp.take_along_axis(best, index // classes, axis=1), index % classes
