"""How localization quality is predicted: one of the four axes of a detector.

joint: merged into the class score, whose label is the IoU (GFL);
distribution: likewise, after multiplying the score with what is read off the distributions of the box's
  sides: sharp ones mean a good box (GFLv2, Li et al. 2021, sec. 3.2);
centerness, iou: by a branch, whose score is multiplied in (FCOS, ATSS; IoU-Net);
none: not at all.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Quality = Literal["joint", "distribution", "centerness", "iou", "none"]

# Of a distribution GFLv2 sees the largest probabilities and their mean, and reads them by so many units.
NUM_LARGEST = 4
HIDDEN = 64

Maps = Float[Array, "batch h w channels"]

# What predicts the IoU of a box, in words.
PREDICTED_BY: dict[Quality, str] = {
    "joint": "joint score",
    "distribution": "joint score",
    "none": "class score",
    "iou": "IoU branch",
    "centerness": "centerness branch",
}


def has_branch(quality: Quality) -> bool:
    """Whether the head has a branch for it."""
    return quality in ("centerness", "iou")


def has_soft_labels(quality: Quality) -> bool:
    """Whether class scores learn an IoU, which the focal loss cannot."""
    return quality in ("joint", "distribution")


def reads_distributions(quality: Quality) -> bool:
    """Whether it takes sides that are distributions."""
    return quality == "distribution"


def make_class_logits(quality: Quality, bins: int, dtype: Any) -> Callable[[Maps, Maps], Maps]:
    """A function (class map, box map) -> class logits, to be made in the head's compact method.

    Its layers, if it has some, become the head's, and are those of all levels.

    Args:
      quality: how localization quality is predicted.
      bins: of a side's distribution.
      dtype: of the arithmetic of its layers.
    """
    if not reads_distributions(quality):
        return lambda class_map, box_map: class_map

    def conv(name: str, features: int) -> nn.Conv:
        return nn.Conv(features, (1, 1), dtype=dtype, kernel_init=nn.initializers.normal(0.01), name=name)

    # Named as in mmdetection, where a ReLU is number 1.
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
    """The `count` largest values, largest first, by comparing all with all.

    For a few values this is quicker than sorting, and its gradient scatters nothing.
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
    """What the branch learns by cross-entropy: the IoU of the decoded and the true box, or its centerness."""
    return {"iou": overlap, "centerness": centerness}[quality]


def class_labels(
    quality: Quality, positive: Bool[Array, "*n"], overlap: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """What the score of a positive's class learns."""
    return overlap if has_soft_labels(quality) else positive.astype(overlap.dtype)


def final_scores(class_scores: Float[Array, "*n"], branch_logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """What the detections of a detector with a branch are ranked by; others rank by the class score."""
    return class_scores * jax.nn.sigmoid(branch_logits)
