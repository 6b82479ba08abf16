"""The assignment of FCOS (Tian et al. 2019, sec. 3.2): a location is positive inside a box."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import area, boxes_to_distances, center
from gfl_jax.targets.locations import Locations


def assign_fcos(
    boxes: Float[Array, "boxes 4"],
    box_mask: Bool[Array, "boxes"],
    locations: Locations,
    range_bounds: Sequence[float],
    center_radius: float | None = None,
) -> Int[Array, "locations"]:
    """Assigns boxes to the locations of one picture.

    Args:
      boxes: ground truths in pixels.
      box_mask: False for padding.
      locations: of the canvas.
      range_bounds: pixels; level i takes the boxes whose farthest side is between bounds i - 1
        and i away (both included), the first from 0 on, the last without end.
      center_radius: if given, a positive is also within so many strides of the box's center.

    Returns:
      The index of each location's box, or -1 where it is background. Of several boxes the
      smallest wins, of equal ones the first.
    """
    points = jnp.asarray(locations.points, boxes.dtype)[:, None]
    distances = boxes_to_distances(points, boxes)
    inside = jnp.min(distances, axis=-1) > 0
    if center_radius is not None:
        reach = jnp.asarray(locations.strides, boxes.dtype)[:, None, None] * center_radius
        middle = center(boxes)
        core = jnp.concatenate(
            [jnp.maximum(middle - reach, boxes[:, :2]), jnp.minimum(middle + reach, boxes[:, 2:])], axis=-1
        )
        inside = jnp.min(boxes_to_distances(points, core), axis=-1) > 0
    bounds = np.array([-1, *range_bounds, np.inf], np.float32)
    farthest = jnp.max(distances, axis=-1)
    low, high = bounds[locations.levels][:, None], bounds[locations.levels + 1][:, None]
    candidate = inside & (farthest >= low) & (farthest <= high) & box_mask
    smallest = jnp.argmin(jnp.where(candidate, area(boxes), jnp.inf), axis=1)
    return jnp.where(jnp.any(candidate, axis=1), smallest, -1)
