"""What the numbers of a box side mean: one of the four axes of a detector.

Each location has `num_parameters` numbers for each of its four sides:
  dirac: the distance (one number), or, for deltas, the shift or log ratio to the anchor;
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
    """What a box side is, and the losses on it."""

    # One number, a mean with a variance, or a distribution over the distances 0..reg_max.
    kind: Literal["dirac", "gaussian", "general"] = "general"
    coding: Literal["distances", "deltas"] = "distances"  # deltas: of the anchor, for dirac only
    activation: Literal["relu", "exp"] = "relu"  # what makes dirac and gaussian distances positive
    unit: Literal["stride", "pixel"] = "stride"  # of the dirac and gaussian distances
    reg_max: Annotated[int, Range(least=1, most=10**4)] = (
        16  # general: the paper's n; bins are y_i = i * spacing, i = 0..n
    )
    spacing: Positive = 1.0  # general: the paper's delta, in strides
    loss: Literal["giou", "iou"] = "giou"
    loss_weight: NotNegative = 2.0
    # How much a positive counts: by its best class score, by its centerness, or all alike.
    weighting: Literal["score", "centerness", "none"] = "score"
    min_normalizer: Positive = 1.0  # least sum of these weights that the losses are divided by
    dfl_weight: NotNegative = 0.25  # general: of the distribution focal loss; 0: none
    likelihood_weight: NotNegative = 0.1  # gaussian: of the negative log-likelihood

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


def num_parameters(box: BoxRepresentation) -> int:
    """Numbers for each side."""
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
    # By default accelerators multiply float32 numbers in bfloat16 or TF32.
    return jnp.matmul(jax.nn.softmax(logits, axis=-1), values.astype(logits.dtype), precision="highest")


def decode_boxes(
    parameters: Float[Array, "*n 4 k"],
    points: Float[Array, "*n 2"],
    strides: Float[Array, "*n 1"],
    anchors: Float[Array, "*n 4"],
    box: BoxRepresentation,
) -> Float[Array, "*n 4"]:
    """The boxes that the head's numbers mean, in pixels.

    Args:
      parameters: of the left, top, right and bottom side.
      points: the locations, in pixels.
      strides: of the locations' levels, in pixels.
      anchors: of the locations, in pixels; only deltas need them.
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
    """Pixels in the unit of distances; that of a general distribution is the stride."""
    in_pixels = box.kind != "general" and box.unit == "pixel"
    return jnp.ones_like(strides) if in_pixels else strides


def side_variances(
    parameters: Float[Array, "*n 4 k"], strides: Float[Array, "*n 1"], box: BoxRepresentation
) -> Float[Array, "*n 4"]:
    """Variances of the four sides in square pixels; dirac sides have none."""
    if box.kind == "general":
        values = bins(box).astype(parameters.dtype)
        # About the mean: of a sharp distribution E[y^2] - E[y]^2 would be rounding alone.
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
    """The losses of each location, with the weights of the representation.

    Args:
      parameters: of the head.
      boxes: what they mean, in strides.
      true_boxes: in strides.
      points: the locations, in strides.
      strides: in pixels.
      box: the representation.

    Returns:
      loss_bbox; loss_dfl of a general distribution (GFL eq. 6); loss_likelihood of a gaussian.
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
    class_logits: Float[Array, "*n classes"],
    centerness: Float[Array, "*n"],
    positive: Bool[Array, "*n"],
    box: BoxRepresentation,
) -> Float[Array, "*n"]:
    """How much each location counts in the box losses; zero where it is not positive."""
    if box.weighting == "score":
        return jax.nn.sigmoid(jnp.max(jax.lax.stop_gradient(class_logits), axis=-1)) * positive
    return centerness * positive if box.weighting == "centerness" else positive.astype(centerness.dtype)
