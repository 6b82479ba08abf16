"""What a detector minimizes: the losses of a batch, weighted and normalized as in the reference."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax import config
from gfl_jax.boxes import boxes_to_distances, distances_to_boxes, iou
from gfl_jax.losses.box import giou_loss
from gfl_jax.losses.distribution import distribution_focal_loss, integral
from gfl_jax.losses.focal import quality_focal_loss
from gfl_jax.structures import Batch, HeadOutputs
from gfl_jax.targets.assign import assign_targets
from gfl_jax.targets.locations import flatten_levels, grid_sizes_of, make_locations, sum_per_level


def detection_losses(
    outputs: HeadOutputs, batch: Batch, detector: config.Detector
) -> dict[str, Float[Array, "levels"]]:
    """The losses of a global batch, level by level; their sum is what training minimizes.

    The normalizers are sums over the whole batch, clamped to at least one (per picture for the
    class loss), so that every batch has finite losses, one without boxes too.

    Args:
      outputs: of the network, for the canvas of the batch.
      batch: pictures with their boxes.
      detector: the point of the grid.

    Returns:
      loss_cls: quality focal loss; loss_bbox: GIoU loss; loss_dfl: distribution focal loss.
    """
    locations = make_locations(grid_sizes_of(outputs.class_logits), detector.strides)
    targets = assign_targets(batch, locations, detector)
    class_logits = flatten_levels(outputs.class_logits)
    side_logits = flatten_levels(outputs.box)
    side_logits = side_logits.reshape(*side_logits.shape[:2], 4, -1)
    dtype = class_logits.dtype
    positive = targets.positive

    # Boxes and distances are in strides from here on.
    strides = jnp.asarray(locations.strides, dtype)[:, None]
    points = jnp.asarray(locations.points, dtype) / strides
    boxes = distances_to_boxes(points, integral(side_logits))
    true_boxes = targets.boxes.astype(dtype) / strides

    quality = jax.lax.stop_gradient(iou(boxes, true_boxes)) * positive
    qualities = jax.nn.one_hot(targets.labels, detector.num_classes, dtype=dtype) * quality[..., None]
    class_loss = quality_focal_loss(class_logits, qualities, detector.classification.beta)
    class_loss = jnp.sum(class_loss, axis=-1) * targets.valid
    class_normalizer = jnp.sum(jnp.maximum(jnp.sum(positive, axis=1), 1))

    # Boxes count as much as their location's detached best class score.
    weights = jax.nn.sigmoid(jnp.max(jax.lax.stop_gradient(class_logits), axis=-1)) * positive
    box_normalizer = jnp.maximum(jnp.sum(weights), 1)
    box_loss = giou_loss(boxes, true_boxes) * weights
    distances = jnp.clip(boxes_to_distances(points, true_boxes), 0, detector.box.reg_max - 0.1)
    dfl = jnp.mean(distribution_focal_loss(side_logits, distances), axis=-1) * weights

    def total(x: Array, weight: float, normalizer: Array) -> Array:
        return sum_per_level(x, locations.grid_sizes) * weight / normalizer

    return {
        "loss_cls": total(class_loss, detector.classification.weight, class_normalizer),
        "loss_bbox": total(box_loss, detector.box.giou_weight, box_normalizer),
        "loss_dfl": total(dfl, detector.box.dfl_weight, box_normalizer),
    }
