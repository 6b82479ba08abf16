"""What the numbers of a box side mean: one of the four axes of a detector.

Each location has `num_parameters` numbers for each of its four sides:
  dirac: the distance (one number), or, for deltas, the shift or log ratio to the anchor;
  gaussian: mean and log variance of the distance;
  general: logits of a distribution over the distances y_0, y_1, ..., y_n (GFL sec. 3.2).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax.boxes import deltas_to_boxes, distances_to_boxes
from gfl_jax.config import BoxRepresentation


def num_parameters(box: BoxRepresentation) -> int:
    """Numbers for each side."""
    return {"dirac": 1, "gaussian": 2, "general": box.reg_max + 1}[box.kind]


def bins(box: BoxRepresentation) -> Float[Array, "bins"]:
    """The distances y_0, ..., y_n of a general distribution, in strides."""
    return jnp.arange(box.reg_max + 1) * box.spacing


def integral(logits: Float[Array, "*n bins"], values: Float[Array, "bins"]) -> Float[Array, "*n"]:
    """Expected value of a distribution over `values` (GFL eq. 4)."""
    return jax.nn.softmax(logits, axis=-1) @ values.astype(logits.dtype)


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
        values = bins(box)
        variance = integral(parameters, jnp.square(values)) - jnp.square(integral(parameters, values))
        return jnp.maximum(variance, 0) * jnp.square(unit(strides, box))
    return jnp.exp(parameters[..., 1]) * jnp.square(unit(strides, box))
