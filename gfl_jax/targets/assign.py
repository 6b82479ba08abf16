"""The training targets of a batch: for each location a class and a box, or background."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax import config
from gfl_jax.structures import Batch
from gfl_jax.targets.atss import assign_atss
from gfl_jax.targets.fcos import assign_fcos
from gfl_jax.targets.locations import (
    GridSizes,
    Locations,
    anchor_shapes,
    make_locations,
    valid_grid_sizes,
    valid_locations,
)
from gfl_jax.targets.max_iou import assign_max_iou


class Targets(NamedTuple):
    """What every location should say."""

    positive: Bool[Array, "batch locations"]
    valid: Bool[Array, "batch locations"]  # False: no part in the loss
    box_index: Int[Array, "batch locations"]  # -1 where not positive
    labels: Int[Array, "batch locations"]  # -1 where not positive
    boxes: Float[Array, "batch locations 4"]  # pixels; zeros where not positive


def detector_locations(grid_sizes: GridSizes, detector: config.Detector) -> Locations:
    """The locations of a detector: FCOS's lie in the middle of their cells."""
    assigner = detector.assigner
    shapes = anchor_shapes(assigner.anchor_scale, assigner.anchor_octave_parts, assigner.anchor_ratios)
    return make_locations(grid_sizes, detector.strides, 0.5 if assigner.kind == "fcos" else 0.0, shapes)


def assign_targets(batch: Batch, locations: Locations, detector: config.Detector) -> Targets:
    """Assigns the boxes of a batch to the locations of its canvas."""
    assigner, grid_sizes = detector.assigner, locations.grid_sizes
    valid_sizes = valid_grid_sizes(batch.image_sizes, grid_sizes, detector.strides)
    valid = valid_locations(valid_sizes, grid_sizes, num_anchors(assigner))

    def assign(boxes: Array, box_mask: Array, valid_size: Array, valid: Array) -> tuple[Array, Array]:
        if assigner.kind == "fcos":  # counts every location of the canvas as background, as in the reference
            index = assign_fcos(boxes, box_mask, locations, assigner.range_bounds, assigner.center_radius)
            return index, jnp.ones_like(valid)
        if assigner.kind == "max_iou":
            return assign_max_iou(
                boxes, box_mask, valid, locations, assigner.positive_iou, assigner.negative_iou
            )
        scale = assigner.anchor_scale
        return assign_atss(
            boxes, box_mask, valid_size, grid_sizes, detector.strides, assigner.topk, scale
        ), valid

    box_index, valid = jax.vmap(assign)(batch.boxes, batch.box_mask, valid_sizes, valid)
    positive = box_index >= 0
    labels = jnp.take_along_axis(batch.labels, jnp.maximum(box_index, 0), axis=1)
    boxes = jnp.take_along_axis(batch.boxes, jnp.maximum(box_index, 0)[..., None], axis=1)
    return Targets(
        positive=positive,
        valid=valid,
        box_index=box_index,
        labels=jnp.where(positive, labels, -1),
        boxes=jnp.where(positive[..., None], boxes, 0),
    )


def num_anchors(assigner: config.Assigner) -> int:
    """Anchors of a location."""
    return assigner.anchor_octave_parts * len(assigner.anchor_ratios)
