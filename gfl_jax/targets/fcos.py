"""The assignment of FCOS (Tian et al. 2019, sec. 3.2): a location is positive inside a box."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import area, center
from gfl_jax.targets.locations import Locations


def assign_fcos(
    boxes: Float[Array, "boxes 4"],
    box_mask: Bool[Array, "boxes"],
    locations: Locations,
    range_bounds: Sequence[float],
    center_radius: float | None = None,
) -> Int[Array, "locations"]:
    """Assigns boxes to the locations of one image.

    Args:
      boxes: ground truths in pixels.
      box_mask: False for padding.
      locations: of the canvas.
      range_bounds: in pixels. Level i takes the boxes whose farthest side is between bounds i - 1 and i away
        (both included). The first level begins at 0, and the last level has no upper bound.
      center_radius: if given, a positive must also be within this many strides of the box's center, along
        both axes.

    Returns:
      The index of each location's box, or -1 for background. If several boxes claim a location, the smallest
      wins, and of equal ones the first.
    """
    # Coordinate by coordinate, so compilers make one loop without an array of distances to all boxes.
    x, y = jnp.asarray(locations.points.T[..., None], boxes.dtype)
    x1, y1, x2, y2 = core_x1, core_y1, core_x2, core_y2 = boxes.T
    farthest = _most(x - x1, y - y1, x2 - x, y2 - y)
    if center_radius is not None:
        reach = jnp.asarray(locations.strides, boxes.dtype)[:, None] * center_radius
        middle_x, middle_y = center(boxes).T
        core_x1, core_y1 = jnp.maximum(middle_x - reach, x1), jnp.maximum(middle_y - reach, y1)
        core_x2, core_y2 = jnp.minimum(middle_x + reach, x2), jnp.minimum(middle_y + reach, y2)
    inside = _most(core_x1 - x, core_y1 - y, x - core_x2, y - core_y2) < 0
    bounds = np.array([-1, *range_bounds, np.inf], np.float32)
    low, high = bounds[locations.levels][:, None], bounds[locations.levels + 1][:, None]
    candidate = inside & (farthest >= low) & (farthest <= high) & box_mask
    smallest = jnp.argmin(jnp.where(candidate, area(boxes), jnp.inf), axis=1)
    return jnp.where(jnp.any(candidate, axis=1), smallest, -1)


def _most(a: Array, b: Array, c: Array, d: Array) -> Array:
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
