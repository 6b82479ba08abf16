"""The training targets of a batch: for each location a class and a box, or background."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax import config
from gfl_jax.structures import Batch
from gfl_jax.targets.atss import assign_atss
from gfl_jax.targets.locations import Locations, valid_grid_sizes, valid_locations


class Targets(NamedTuple):
    """What every location should say."""

    positive: Bool[Array, "batch locations"]
    valid: Bool[Array, "batch locations"]  # False: beyond the picture, no part in the loss
    box_index: Int[Array, "batch locations"]  # -1 where not positive
    labels: Int[Array, "batch locations"]  # -1 where not positive
    boxes: Float[Array, "batch locations 4"]  # pixels; zeros where not positive


def assign_targets(batch: Batch, locations: Locations, detector: config.Detector) -> Targets:
    """Assigns the boxes of a batch to the locations of its canvas."""
    valid_sizes = valid_grid_sizes(batch.image_sizes, locations.grid_sizes, detector.strides)

    def assign(boxes: Array, box_mask: Array, valid_size: Array) -> Array:
        return assign_atss(
            boxes,
            box_mask,
            valid_size,
            locations.grid_sizes,
            detector.strides,
            detector.assigner.topk,
            detector.assigner.anchor_scale,
        )

    box_index = jax.vmap(assign)(batch.boxes, batch.box_mask, valid_sizes)
    positive = box_index >= 0
    labels = jnp.take_along_axis(batch.labels, jnp.maximum(box_index, 0), axis=1)
    boxes = jnp.take_along_axis(batch.boxes, jnp.maximum(box_index, 0)[..., None], axis=1)
    return Targets(
        positive=positive,
        valid=valid_locations(valid_sizes, locations.grid_sizes),
        box_index=box_index,
        labels=jnp.where(positive, labels, -1),
        boxes=jnp.where(positive[..., None], boxes, 0),
    )
