"""Losses on boxes that measure how little a predicted box overlaps the true one. Elementwise."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.boxes import EPSILON, giou, iou


def giou_loss(boxes: Float[Array, "*n 4"], true_boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """1 - generalized IoU, in [0, 2) (Rezatofighi et al. 2019)."""
    return 1 - giou(boxes, true_boxes)


def iou_loss(boxes: Float[Array, "*n 4"], true_boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """-log IoU (UnitBox, Yu et al. 2016), as in FCOS."""
    return -jnp.log(jnp.maximum(iou(boxes, true_boxes), EPSILON))
