"""Assignment by overlap with anchors, as in RetinaNet (Lin et al. 2017, sec. 4)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.boxes import EPSILON, area
from gfl_jax.targets.locations import Locations


def assign_max_iou(
    boxes: Float[Array, "boxes 4"],
    box_mask: Bool[Array, "boxes"],
    valid: Bool[Array, "locations"],
    locations: Locations,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
) -> tuple[Int[Array, "locations"], Bool[Array, "locations"]]:
    """Assigns boxes to the anchors of one picture.

    An anchor is positive for the box that it overlaps most, if by `positive_iou` or more. The
    anchors that a box overlaps most are positive for it in any case.

    Args:
      boxes: ground truths in pixels.
      box_mask: False for padding.
      valid: which anchors lie on the picture.
      locations: with their anchors.
      positive_iou: from here on an anchor is positive.
      negative_iou: below this it is background; in between it takes no part in training.

    Returns:
      The index of each anchor's box, -1 for none; and which anchors take part.
    """
    # `iou`, coordinate by coordinate: a TPU then keeps no array of anchors x boxes, but computes overlaps
    # wherever they are needed. Areas are rounded before, so that they come out the same each time.
    x1, y1, x2, y2 = np.asarray(locations.anchors, boxes.dtype).T[..., None]
    areas = (x2 - x1) * (y2 - y1) + jax.lax.optimization_barrier(area(boxes))
    left, top, right, bottom = boxes.T
    width = jnp.maximum(jnp.minimum(x2, right) - jnp.maximum(x1, left), 0)
    height = jnp.maximum(jnp.minimum(y2, bottom) - jnp.maximum(y1, top), 0)
    common = width * height
    overlaps = common / jnp.maximum(areas - common, EPSILON)
    overlaps = jnp.where(valid[:, None] & box_mask, overlaps, -1)
    best, index = jnp.max(overlaps, axis=1), jnp.argmax(overlaps, axis=1)
    assigned = jnp.where(best >= positive_iou, index, -1)
    best_of_box = jnp.max(overlaps, axis=0)
    is_best = (overlaps == best_of_box) & (best_of_box > 0)
    # Of several boxes whose best anchor it is, the last one gets it, as in the reference.
    last = jnp.max(jnp.where(is_best, jnp.arange(len(boxes)), -1), axis=1)
    assigned = jnp.where(last >= 0, last, assigned)
    return assigned, valid & ((assigned >= 0) | (best < negative_iou))
