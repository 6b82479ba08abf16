"""How localization quality is predicted: one of the four axes of a detector.

joint: merged into the class score, whose label is the IoU (GFL);
distribution: like joint, but the class score is first multiplied by a score that small layers compute from
  the distributions of the box sides: sharp distributions mean a good box (GFLv2, Li et al. 2021, sec. 3.2);
centerness, iou: by a branch, whose score is multiplied with the class score (FCOS, ATSS; IoU-Net);
none: not predicted.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Quality = Literal["joint", "distribution", "centerness", "iou", "none"]

NUM_LARGEST = 4  # GFLv2 reads this many of the largest probabilities of a distribution, and their mean
HIDDEN = 64  # channels of the hidden layer that reads them

Maps = Float[Array, "batch h w channels"]

# The name of what predicts the IoU of a box, for tables and figures.
PREDICTED_BY: dict[Quality, str] = {
    "joint": "joint score",
    "distribution": "joint score",
    "none": "class score",
    "iou": "IoU branch",
    "centerness": "centerness branch",
}


def has_branch(quality: Quality) -> bool:
    """Whether the head has a quality branch."""
    return quality in ("centerness", "iou")


def has_soft_labels(quality: Quality) -> bool:
    """Whether the labels of class scores are IoUs, which the focal loss does not support."""
    return quality in ("joint", "distribution")


def reads_distributions(quality: Quality) -> bool:
    """Whether the quality is read from distributions of the box sides."""
    return quality == "distribution"


def make_class_logits(quality: Quality, bins: int, dtype: Any) -> Callable[[Maps, Maps], Maps]:
    """Makes a function (class map, box map) -> class logits; call this in the head's compact method.

    Its layers, if any, belong to the head and are shared by all levels.

    Args:
      quality: how localization quality is predicted.
      bins: number of bins of a side's distribution.
      dtype: of the arithmetic of its layers.
    """
    if not reads_distributions(quality):
        return lambda class_map, box_map: class_map

    def conv(name: str, features: int) -> nn.Conv:
        return nn.Conv(features, (1, 1), dtype=dtype, kernel_init=nn.initializers.normal(0.01), name=name)

    # The names are mmdetection's, where number 1 is a ReLU.
    first, second = conv("reg_conf_0", HIDDEN), conv("reg_conf_2", 1)

    def class_logits(class_map: Maps, box_map: Maps) -> Maps:
        batch, rows = box_map.shape[:2]
        best = largest(jax.nn.softmax(box_map.reshape(batch, rows, -1, 4, bins)), NUM_LARGEST)
        seen = jnp.concatenate([best, jnp.mean(best, axis=-1, keepdims=True)], axis=-1)
        quality = second(nn.relu(first(seen.reshape(*seen.shape[:3], -1)))).astype(class_map.dtype)
        of_anchors = class_map.reshape(*quality.shape[:3], -1)
        return logit_of_product(of_anchors, quality).reshape(class_map.shape)

    return class_logits


def largest(values: Float[Array, "*n m"], count: int) -> Float[Array, "*n k"]:
    """The `count` largest values, largest first, found by comparing each value with every other one.

    For a few values this is faster than sorting, and its gradient needs no scatter.
    """
    one, other = values[..., :, None], values[..., None, :]
    positions = jnp.arange(values.shape[-1])
    before = (other > one) | ((other == one) & (positions < positions[:, None]))
    rank = jnp.sum(before, axis=-1)
    return jnp.stack([jnp.sum(jnp.where(rank == k, values, 0), axis=-1) for k in range(count)], axis=-1)


def logit_of_product(a: Float[Array, "*n"], b: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The logit of sigmoid(a) sigmoid(b), which is -log(exp(-a) + exp(-b) + exp(-a - b))."""
    return -jnp.logaddexp(jnp.logaddexp(-a, -b), -a - b)


def branch_labels(
    quality: Quality, overlap: Float[Array, "*n"], centerness: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """The labels of the branch, for cross-entropy: IoU of decoded and true box, or centerness."""
    return {"iou": overlap, "centerness": centerness}[quality]


def class_labels(
    quality: Quality, positive: Bool[Array, "*n"], overlap: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """The label of each location's true class: its IoU, or 1 if it is positive."""
    return overlap if has_soft_labels(quality) else positive.astype(overlap.dtype)


def final_scores(class_scores: Float[Array, "*n"], branch_logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The scores that rank detections of a detector with a branch; others rank by the class score."""
    return class_scores * jax.nn.sigmoid(branch_logits)
