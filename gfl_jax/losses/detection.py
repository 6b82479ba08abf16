"""What a detector minimizes: the losses of a batch, weighted and normalized as in the reference."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfl_jax import config
from gfl_jax.box_representation import decode_boxes, decode_distances, num_parameters, unit
from gfl_jax.boxes import boxes_to_distances, centerness, iou
from gfl_jax.losses.box import giou_loss, iou_loss
from gfl_jax.losses.distribution import distribution_focal_loss, gaussian_negative_log_likelihood
from gfl_jax.losses.focal import binary_cross_entropy, focal_loss, l2_loss, quality_focal_loss
from gfl_jax.structures import Batch, HeadOutputs
from gfl_jax.targets.assign import Targets, assign_targets, detector_locations
from gfl_jax.targets.locations import flatten_levels, grid_sizes_of, sum_per_level


def detection_losses(
    outputs: HeadOutputs, batch: Batch, detector: config.Detector
) -> dict[str, Float[Array, "levels"]]:
    """The losses of a global batch, level by level; their sum is what training minimizes.

    The normalizers are sums over the whole batch that are never zero, so that every batch has
    finite losses, one without boxes too.

    Args:
      outputs: of the network, for the canvas of the batch.
      batch: pictures with their boxes.
      detector: the point of the grid.

    Returns:
      loss_cls and loss_bbox; loss_centerness or loss_iou of a quality branch; loss_dfl of a
      general distribution; loss_likelihood of a gaussian.
    """
    box = detector.box
    locations = detector_locations(grid_sizes_of(outputs.class_logits), detector)
    targets = assign_targets(batch, locations, detector)
    positive = targets.positive
    class_logits = flatten_levels(outputs.class_logits, detector.num_classes)
    dtype = class_logits.dtype
    parameters = flatten_levels(outputs.box, 4 * num_parameters(box))
    parameters = parameters.reshape(*parameters.shape[:2], 4, -1)
    # An exponential elsewhere could be infinite, and its gradient NaN in spite of a weight of zero.
    parameters = jnp.where(positive[..., None, None], parameters, 0)

    # Boxes and distances are in strides from here on.
    strides = jnp.asarray(locations.strides, dtype)[:, None]
    points = jnp.asarray(locations.points, dtype)
    boxes = decode_boxes(parameters, points, strides, jnp.asarray(locations.anchors, dtype), box) / strides
    true_boxes = targets.boxes.astype(dtype) / strides
    distances = boxes_to_distances(points / strides, true_boxes)
    overlap = jax.lax.stop_gradient(iou(boxes, true_boxes)) * positive
    label_centerness = centerness(distances) * positive

    class_loss = _class_loss(class_logits, targets, overlap, detector) * targets.valid
    class_normalizer = _count(targets, detector.assigner)
    weights = {
        "score": jax.nn.sigmoid(jnp.max(jax.lax.stop_gradient(class_logits), axis=-1)) * positive,
        "centerness": label_centerness,
        "none": positive.astype(dtype),
    }[box.weighting]
    box_normalizer = jnp.maximum(jnp.sum(weights), box.min_normalizer)
    box_loss = {"giou": giou_loss, "iou": iou_loss}[box.loss](boxes, true_boxes)

    def total(x: Array, weight: float, normalizer: Array) -> Array:
        return sum_per_level(x, locations) * weight / normalizer

    losses = {
        "loss_cls": total(class_loss, detector.classification.weight, class_normalizer),
        "loss_bbox": total(jnp.where(positive, box_loss, 0) * weights, box.loss_weight, box_normalizer),
    }
    if detector.quality in ("centerness", "iou"):
        quality = flatten_levels(outputs.quality, 1)[..., 0]
        label = label_centerness if detector.quality == "centerness" else overlap
        quality_loss = binary_cross_entropy(quality, label) * positive
        losses[f"loss_{detector.quality}"] = total(quality_loss, 1.0, class_normalizer)
    if box.kind == "general" and box.dfl_weight:
        within = jnp.clip(distances, 0, (box.reg_max - 0.1) * box.spacing)
        dfl = jnp.mean(distribution_focal_loss(parameters, within, box.spacing), axis=-1) * weights
        losses["loss_dfl"] = total(dfl, box.dfl_weight, box_normalizer)
    if box.kind == "gaussian":
        scale = unit(strides, box) / strides
        mean, log_variance = decode_distances(parameters, box) * scale, parameters[..., 1]
        likelihood = gaussian_negative_log_likelihood(mean, log_variance, distances)
        likelihood = jnp.mean(likelihood, axis=-1) * weights
        losses["loss_likelihood"] = total(likelihood, box.likelihood_weight, box_normalizer)
    return losses


def _class_loss(
    logits: Float[Array, "batch locations classes"],
    targets: Targets,
    overlap: Float[Array, "batch locations"],
    detector: config.Detector,
) -> Float[Array, "batch locations"]:
    """Sum over the classes. The label of a positive's class is its IoU for joint quality, else 1."""
    loss = detector.classification
    label = overlap if detector.quality == "joint" else targets.positive
    labels = jax.nn.one_hot(targets.labels, detector.num_classes, dtype=logits.dtype) * label[..., None]
    function: Callable[[Array, Array], Array] = {
        "focal": lambda x, y: focal_loss(x, y, loss.alpha, loss.gamma),
        "quality_focal": lambda x, y: quality_focal_loss(x, y, loss.beta),
        "l2": l2_loss,
    }[loss.kind]
    return jnp.sum(function(logits, labels), axis=-1)


def _count(targets: Targets, assigner: config.Assigner) -> Float[Array, ""]:
    """Positives of the batch, at least one; assigners with anchors count at least one a picture."""
    of_picture = jnp.sum(targets.positive, axis=1)
    return jnp.maximum(jnp.sum(of_picture if assigner.kind == "fcos" else jnp.maximum(of_picture, 1)), 1)
