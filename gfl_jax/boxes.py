"""Box geometry on arrays.

A box is (x1, y1, x2, y2) in pixels: x to the right, y down. It is half-open, so its width is x2 - x1, without
+1. Every function accepts any leading shape and negative coordinates.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6  # lower bound of union and enclosing area, as in mmdetection
MAX_LOG_RATIO = 4.135166556742356  # |log(16 / 1000)|: boxes at most 62.5 times their anchor


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Width times height in square pixels; negative if one side is inverted, as in mmdetection."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas of the intersections of boxes, with broadcasting over the leading axes."""
    return _extent(jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:]))


def _extent(corner: Float[Array, "*n 2"], opposite: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    sides = jnp.maximum(opposite - corner, 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Intersection over union, in [0, 1], with broadcasting over the leading axes.

    `iou(a[:, None], b[None])` gives all pairs of n and m boxes.
    """
    common = intersection(a, b)
    return common / jnp.maximum(area(a) + area(b) - common, EPSILON)


def giou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Generalized IoU, in (-1, 1] (Rezatofighi et al. 2019), broadcasting like `iou`."""
    common = intersection(a, b)
    union = jnp.maximum(area(a) + area(b) - common, EPSILON)
    enclosing = _extent(jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:]))
    enclosing = jnp.maximum(enclosing, EPSILON)
    return common / union - (enclosing - union) / enclosing


def center(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Centers (x, y) of boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def distances_to_boxes(points: Float[Array, "*n 2"], distances: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Boxes whose left, top, right and bottom sides are at `distances` from `points`."""
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def boxes_to_distances(points: Float[Array, "*n 2"], boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Distances from points to the left, top, right and bottom sides of boxes; negative outside the box."""
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def clip_boxes(boxes: Float[Array, "*n 4"], sizes: Float[Array, "*n 2"]) -> Float[Array, "*n 4"]:
    """Clips boxes to images of `sizes` (height, width)."""
    limits = jnp.flip(sizes, axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, jnp.concatenate([limits, limits], axis=-1))


def centerness(distances: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Centerness of a point in its box (FCOS eq. 3): 1 in the center, 0 on the sides and outside.

    Args:
      distances: distances from the point to the left, top, right and bottom sides.
    """
    pairs = jnp.stack([distances[..., :2], distances[..., 2:]])
    ratios = jnp.maximum(jnp.min(pairs, axis=0), 0) / jnp.maximum(jnp.max(pairs, axis=0), EPSILON)
    return jnp.sqrt(jnp.prod(ratios, axis=-1))


def deltas_to_boxes(
    anchors: Float[Array, "*n 4"],
    deltas: Float[Array, "*n 4"],
    stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2),
) -> Float[Array, "*n 4"]:
    """Decodes boxes from anchors and deltas (dx, dy, dw, dh) (R-CNN, Girshick et al. 2014).

    Shifts are in units of the anchor sides, and sizes are logarithms of ratios. The deltas are divided by
    `stds`.
    """
    shift, log_ratio = jnp.split(deltas * jnp.asarray(stds, deltas.dtype), 2, axis=-1)
    size = anchors[..., 2:] - anchors[..., :2]
    middle = center(anchors) + shift * size
    half = size * jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)) / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def boxes_to_deltas(
    anchors: Float[Array, "*n 4"],
    boxes: Float[Array, "*n 4"],
    stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2),
) -> Float[Array, "*n 4"]:
    """Encodes boxes as deltas; the inverse of `deltas_to_boxes`."""
    size, anchor_size = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    shift = (center(boxes) - center(anchors)) / anchor_size
    deltas = jnp.concatenate([shift, jnp.log(size / anchor_size)], axis=-1)
    return deltas / jnp.asarray(stds, deltas.dtype)
