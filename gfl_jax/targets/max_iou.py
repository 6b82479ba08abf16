"""Assignment by the IoU of anchors and boxes, as in RetinaNet (Lin et al. 2017, sec. 4)."""

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
    """Assigns boxes to the anchors of one image.

    An anchor is positive for the box with which it has the largest IoU, if that is at least `positive_iou`.
    The anchors with the largest IoU with a box are positive for it in any case.

    Args:
      boxes: ground truths in pixels.
      box_mask: False for padding.
      valid: which anchors lie on the image.
      locations: with their anchors.
      positive_iou: an anchor with at least this IoU is positive.
      negative_iou: an anchor below this IoU is background; one in between is ignored in training.

    Returns:
      The index of each anchor's box, or -1; and whether each anchor takes part in training.
    """
    # This is `iou`, coordinate by coordinate: a TPU then stores no array of anchors x boxes, but computes
    # overlaps wherever they are needed. Areas are rounded first, so recomputed overlaps have the same value.
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
    # If an anchor is the best one of several boxes, the last box gets it, as in the reference.
    last = jnp.max(jnp.where(is_best, jnp.arange(len(boxes)), -1), axis=1)
    assigned = jnp.where(last >= 0, last, assigned)
    return assigned, valid & ((assigned >= 0) | (best < negative_iou))
