"""The assignment of FoveaBox (Kong et al. 2020, sec. 3.2): a location is positive in the middle of a box."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import area, center
from gfl_jax.targets.locations import Locations


def assign_fovea(
    boxes: Float[Array, "boxes 4"],
    box_mask: Bool[Array, "boxes"],
    locations: Locations,
    size_ranges: Sequence[tuple[float, float]],
    share: float,
) -> Int[Array, "locations"]:
    """Assigns boxes to the locations of one image.

    Args:
      boxes: ground truths in pixels.
      box_mask: False for padding.
      locations: of the canvas.
      size_ranges: for each level, the smallest and the largest square root of a box's area, in pixels (both
        included). Ranges may overlap, so several levels learn the same box.
      share: the share of a box's width and height, around its center, in which locations are positive (both
        ends included).

    Returns:
      The index of each location's box, or -1 for background. If several boxes claim a location, the smallest
      wins, and of equal ones the first.
    """
    x, y = jnp.asarray(locations.points.T[..., None], boxes.dtype)
    middle_x, middle_y = center(boxes).T
    reach_x, reach_y = share * (boxes[:, 2:] - boxes[:, :2]).T / 2
    inside = (jnp.abs(x - middle_x) <= reach_x) & (jnp.abs(y - middle_y) <= reach_y)
    low, high = np.asarray(size_ranges, np.float32)[locations.levels].T[..., None]
    size = jnp.sqrt(area(boxes))
    candidate = inside & (size >= low) & (size <= high) & box_mask
    smallest = jnp.argmin(jnp.where(candidate, area(boxes), jnp.inf), axis=1)
    return jnp.where(jnp.any(candidate, axis=1), smallest, -1)
