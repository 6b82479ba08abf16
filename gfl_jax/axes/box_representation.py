"""What the head predicts for a box side: one of the four axes of a detector.

Each location has `num_parameters` numbers for each of its four sides:
  dirac: the distance (one number), or, for deltas, the shift or log ratio relative to the anchor;
  gaussian: mean and log variance of the distance;
  general: logits of a distribution over the distances y_0, y_1, ..., y_n (GFL sec. 3.2).
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gfl_jax.boxes import boxes_to_distances, deltas_to_boxes, distances_to_boxes
from gfl_jax.configuration.fields import NotNegative, Positive, Range, check_fields
from gfl_jax.losses.distribution import distribution_focal_loss, gaussian_negative_log_likelihood
from gfl_jax.losses.overlap import giou_loss, iou_loss
from gfl_jax.targets.locations import flatten_levels


@dataclasses.dataclass(frozen=True)
class BoxRepresentation:
    """What the head predicts for a box side, and the losses on it."""

    # Prediction for a side: one number (dirac), mean and variance (gaussian), or a distribution (general)
    kind: Literal["dirac", "gaussian", "general"] = "general"
    # Meaning of the numbers: distances from the location to the sides (distances), or, for dirac only, shifts
    # and log ratios relative to the anchor (deltas)
    coding: Literal["distances", "deltas"] = "distances"
    activation: Literal["relu", "exp"] = "relu"  # dirac and gaussian: function that makes distances positive
    unit: Literal["stride", "pixel"] = "stride"  # dirac and gaussian: unit of the predicted distances
    # general: the paper's n; the bins are the distances y_i = i * spacing, i = 0, ..., n
    reg_max: Annotated[int, Range(least=1, most=10**4)] = 16
    spacing: Positive = 1.0  # general: the paper's delta, the distance between bins in strides
    loss: Literal["giou", "iou"] = "giou"  # Loss on whole boxes: 1 - GIoU (giou), or -log IoU (iou)
    loss_weight: NotNegative = 2.0  # Weight of the loss on whole boxes
    # Weight of each positive in the box losses: its best class score, its centerness, or 1 (none)
    weighting: Literal["score", "centerness", "none"] = "score"
    # Box losses are divided by the sum of the weights of all positives, but at least by this
    min_normalizer: Positive = 1.0
    dfl_weight: NotNegative = 0.25  # general: weight of the distribution focal loss (DFL); 0: no DFL
    likelihood_weight: NotNegative = 0.1  # gaussian: weight of the negative log-likelihood

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


def num_parameters(box: BoxRepresentation) -> int:
    """The number of predicted numbers for each side."""
    return {"dirac": 1, "gaussian": 2, "general": box.reg_max + 1}[box.kind]


def side_parameters(
    levels: Sequence[Float[Array, "batch h w sides_times_parameters"]], box: BoxRepresentation
) -> Float[Array, "batch locations 4 k"]:
    """The head's numbers for the left, top, right and bottom side of each location."""
    flat = flatten_levels(levels, 4 * num_parameters(box))
    return flat.reshape(*flat.shape[:2], 4, -1)


def bins(box: BoxRepresentation) -> Float[Array, "bins"]:
    """The distances y_0, ..., y_n of a general distribution, in strides."""
    return jnp.arange(box.reg_max + 1) * box.spacing


def integral(logits: Float[Array, "*n bins"], values: Float[Array, "bins"]) -> Float[Array, "*n"]:
    """Expected value of a distribution over `values` (GFL eq. 4)."""
    # "highest", because accelerators multiply float32 in bfloat16 or TF32 by default.
    return jnp.matmul(jax.nn.softmax(logits, axis=-1), values.astype(logits.dtype), precision="highest")


def decode_boxes(
    parameters: Float[Array, "*n 4 k"],
    points: Float[Array, "*n 2"],
    strides: Float[Array, "*n 1"],
    anchors: Float[Array, "*n 4"],
    box: BoxRepresentation,
) -> Float[Array, "*n 4"]:
    """Decodes the head's numbers to boxes in pixels.

    Args:
      parameters: the head's numbers for the left, top, right and bottom side.
      points: the locations, in pixels.
      strides: of the locations' levels, in pixels.
      anchors: of the locations, in pixels; used only for deltas.
      box: the representation.
    """
    if box.coding == "deltas":
        return deltas_to_boxes(anchors, parameters[..., 0])
    return distances_to_boxes(points, decode_distances(parameters, box) * unit(strides, box))


def decode_distances(parameters: Float[Array, "*n 4 k"], box: BoxRepresentation) -> Float[Array, "*n 4"]:
    """Distances to the four sides, in the unit of the representation."""
    if box.kind == "general":
        return integral(parameters, bins(box))
    return jnp.exp(parameters[..., 0]) if box.activation == "exp" else jax.nn.relu(parameters[..., 0])


def unit(strides: Float[Array, "*n 1"], box: BoxRepresentation) -> Float[Array, "*n 1"]:
    """The unit of predicted distances, in pixels. A general distribution always uses the stride."""
    in_pixels = box.kind != "general" and box.unit == "pixel"
    return jnp.ones_like(strides) if in_pixels else strides


def side_variances(
    parameters: Float[Array, "*n 4 k"], strides: Float[Array, "*n 1"], box: BoxRepresentation
) -> Float[Array, "*n 4"]:
    """Variances of the four sides in square pixels; dirac sides have none."""
    if box.kind == "general":
        values = bins(box).astype(parameters.dtype)
        # About the mean, because E[y^2] - E[y]^2 of a sharp distribution would be nothing but rounding.
        squares = jnp.square(values - integral(parameters, values)[..., None])
        variance = jnp.sum(jax.nn.softmax(parameters, axis=-1) * squares, axis=-1)
        return variance * jnp.square(unit(strides, box))
    return jnp.exp(parameters[..., 1]) * jnp.square(unit(strides, box))


def box_losses(
    parameters: Float[Array, "*n 4 k"],
    boxes: Float[Array, "*n 4"],
    true_boxes: Float[Array, "*n 4"],
    points: Float[Array, "*n 2"],
    strides: Float[Array, "*n 1"],
    box: BoxRepresentation,
) -> dict[str, Float[Array, "*n"]]:
    """The box losses of each location, with the weights of the representation.

    Args:
      parameters: the head's numbers.
      boxes: the boxes decoded from them, in strides.
      true_boxes: the assigned ground truths, in strides.
      points: the locations, in strides.
      strides: of the locations' levels, in pixels.
      box: the representation.

    Returns:
      loss_bbox; also loss_dfl for a general distribution (GFL eq. 6) unless dfl_weight is 0, or
      loss_likelihood for a gaussian.
    """
    overlap_loss = giou_loss if box.loss == "giou" else iou_loss
    losses = {"loss_bbox": box.loss_weight * overlap_loss(boxes, true_boxes)}
    distances = boxes_to_distances(points, true_boxes)
    if box.kind == "general" and box.dfl_weight:
        within = jnp.clip(distances, 0, (box.reg_max - 0.1) * box.spacing)
        dfl = distribution_focal_loss(parameters, within, box.spacing)
        losses["loss_dfl"] = box.dfl_weight * jnp.mean(dfl, axis=-1)
    if box.kind == "gaussian":
        mean = decode_distances(parameters, box) * (unit(strides, box) / strides)
        likelihood = gaussian_negative_log_likelihood(mean, parameters[..., 1], distances)
        losses["loss_likelihood"] = box.likelihood_weight * jnp.mean(likelihood, axis=-1)
    return losses


def box_weights(
    best_logits: Float[Array, "*n"],
    centerness: Float[Array, "*n"],
    positive: Bool[Array, "*n"],
    box: BoxRepresentation,
) -> Float[Array, "*n"]:
    """The weight of each location in the box losses: zero where it is not positive.

    Args:
      best_logits: the largest class logit of each location.
      centerness: of each location in its assigned box.
      positive: whether a box is assigned to it.
      box: the representation.
    """
    if box.weighting == "score":
        return jax.nn.sigmoid(jax.lax.stop_gradient(best_logits)) * positive
    return centerness * positive if box.weighting == "centerness" else positive.astype(centerness.dtype)
