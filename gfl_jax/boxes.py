"""Box geometry on arrays.

A box is (x1, y1, x2, y2) in pixels: x to the right, y down, half-open, so that its width is
x2 - x1 with no +1. Every function works on any leading shape and for negative coordinates.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6  # least union and least enclosing area, as in mmdetection


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas in square pixels; zero for inverted boxes."""
    width = jnp.maximum(boxes[..., 2] - boxes[..., 0], 0)
    height = jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return width * height


def intersection(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas of the common parts of boxes, with broadcasting over the leading axes."""
    corner = jnp.maximum(a[..., :2], b[..., :2])
    opposite = jnp.minimum(a[..., 2:], b[..., 2:])
    return area(jnp.concatenate([corner, opposite], axis=-1))


def iou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Intersection over union, in [0, 1], with broadcasting over the leading axes.

    For all pairs of n and m boxes: `iou(a[:, None], b[None])`.
    """
    common = intersection(a, b)
    return common / jnp.maximum(area(a) + area(b) - common, EPSILON)


def giou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Generalized IoU, in (-1, 1] (Rezatofighi et al. 2019), broadcasting like `iou`."""
    common = intersection(a, b)
    union = jnp.maximum(area(a) + area(b) - common, EPSILON)
    corner = jnp.minimum(a[..., :2], b[..., :2])
    opposite = jnp.maximum(a[..., 2:], b[..., 2:])
    enclosing = jnp.maximum(area(jnp.concatenate([corner, opposite], axis=-1)), EPSILON)
    return common / union - (enclosing - union) / enclosing


def center(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Centers (x, y)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def distances_to_boxes(points: Float[Array, "*n 2"], distances: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Boxes whose left, top, right and bottom sides lie at `distances` from `points`."""
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def boxes_to_distances(points: Float[Array, "*n 2"], boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Distances of points to the left, top, right and bottom sides; negative outside the box."""
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def clip_boxes(boxes: Float[Array, "*n 4"], sizes: Float[Array, "*n 2"]) -> Float[Array, "*n 4"]:
    """Clips boxes to pictures of `sizes` (height, width)."""
    limits = jnp.flip(sizes, axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, jnp.concatenate([limits, limits], axis=-1))
