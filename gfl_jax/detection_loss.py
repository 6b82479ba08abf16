"""The losses that training minimizes, weighted and normalized as in the reference."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gfl_jax import config
from gfl_jax.axes.assigner import Targets, assign_targets, assigner_locations, count_positives
from gfl_jax.axes.box_representation import box_losses, box_weights, decode_boxes, side_parameters
from gfl_jax.axes.classification import class_loss
from gfl_jax.axes.quality import branch_labels, class_labels, has_branch
from gfl_jax.boxes import boxes_to_distances, centerness, iou
from gfl_jax.losses.distillation import localization_distillation_loss
from gfl_jax.losses.focal import binary_cross_entropy
from gfl_jax.structures import Batch, HeadOutputs
from gfl_jax.targets.locations import (
    Locations,
    flatten_levels,
    grid_sizes_of,
    split_levels,
    sum_per_level,
)


class Normalizers(NamedTuple):
    """Sums over the locations of a batch. The sums of its parts add up to those of the whole batch."""

    positives: Int[Array, ""]  # from `count_positives`
    box_weights: Float[Array, ""]  # sum of the weights in the box losses
    images: Int[Array, ""]


class Lesson(NamedTuple):
    """The predictions of a teacher for a batch, for localization distillation."""

    box: Sequence[Float[Array, "batch h w sides_times_parameters"]]  # as in `HeadOutputs`
    settings: config.Distillation


def detection_losses(
    outputs: HeadOutputs,
    batch: Batch,
    detector: config.Detector,
    normalizers: Normalizers | None = None,
    targets: Targets | None = None,
    lesson: Lesson | None = None,
) -> dict[str, Float[Array, "levels"]]:
    """The losses of a global batch, level by level. Training minimizes their sum.

    They are divided by sums over the whole batch. If a sum is below a lower bound, the bound is used, so the
    losses of every batch are finite, even without boxes.

    Args:
      outputs: of the network, for the canvas of the batch.
      batch: images with their boxes.
      detector: the config of the detector.
      normalizers: if `batch` is a part of a global batch, the normalizers of the global batch: then the
        losses of all parts add up to those of the whole. None: `batch` is the global batch.
      targets: of the batch; None: the assigner computes them.
      lesson: the predictions of a teacher; None: no distillation.

    Returns:
      loss_cls; loss_centerness or loss_iou if there is a quality branch; the losses of `box_losses`; and
      loss_ld if there is a lesson.
    """
    return _losses_and_normalizers(outputs, batch, detector, normalizers, targets, lesson)[0]


def loss_normalizers(outputs: HeadOutputs, batch: Batch, detector: config.Detector) -> Normalizers:
    """The sums that the losses of a batch are divided by. The compiler drops the rest of the computation."""
    return _losses_and_normalizers(outputs, batch, detector, None)[1]


def _losses_and_normalizers(
    outputs: HeadOutputs,
    batch: Batch,
    detector: config.Detector,
    normalizers: Normalizers | None,
    targets: Targets | None = None,
    lesson: Lesson | None = None,
) -> tuple[dict[str, Float[Array, "levels"]], Normalizers]:
    """The losses, and the normalizers of this batch, even if others were given and used."""
    box, quality = detector.box, detector.quality
    grid_sizes = grid_sizes_of(outputs.class_logits)
    locations = assigner_locations(grid_sizes, detector.strides, detector.assigner)
    if targets is None:
        with jax.named_scope("targets"):
            targets = assign_targets(batch, locations, detector.strides, detector.assigner)
    positive = targets.positive
    # The levels stay apart: joining the class logits would write and read them once more.
    class_logits = [flatten_levels([level], detector.num_classes) for level in outputs.class_logits]
    best_logits = jnp.concatenate([jnp.max(logits, axis=-1) for logits in class_logits], axis=1)
    dtype = best_logits.dtype
    # Zero elsewhere: an exponential there could be infinite, and its gradient NaN despite a weight of zero.
    parameters = jnp.where(positive[..., None, None], side_parameters(outputs.box, box), 0)

    # Boxes and distances are in strides from here on.
    strides = jnp.asarray(locations.strides, dtype)[:, None]
    points = jnp.asarray(locations.points, dtype)
    boxes = decode_boxes(parameters, points, strides, jnp.asarray(locations.anchors, dtype), box) / strides
    true_boxes = targets.boxes.astype(dtype) / strides
    overlap = jax.lax.stop_gradient(iou(boxes, true_boxes)) * positive
    label_centerness = centerness(boxes_to_distances(points / strides, true_boxes)) * positive

    weights = box_weights(best_logits, label_centerness, positive, box)
    images = jnp.asarray(len(positive))
    own = Normalizers(count_positives(targets, detector.assigner), jnp.sum(weights), images)
    used = own if normalizers is None else normalizers
    num_positives = jnp.maximum(used.positives, 1)
    weight_sum = jnp.maximum(used.box_weights, box.min_normalizer)

    labels = class_labels(quality, positive, overlap)
    class_losses = _class_losses(class_logits, targets.labels, labels, locations, detector) * targets.valid
    weight = detector.classification.weight / num_positives
    losses = {"loss_cls": sum_per_level(class_losses, locations) * weight}
    if has_branch(quality):
        logits = flatten_levels(outputs.quality, 1)[..., 0]
        branch_loss = binary_cross_entropy(logits, branch_labels(quality, overlap, label_centerness))
        losses[f"loss_{quality}"] = sum_per_level(branch_loss * positive, locations) / num_positives

    for name, loss in box_losses(parameters, boxes, true_boxes, points / strides, strides, box).items():
        weighted = jnp.where(positive, loss, 0) * weights
        losses[name] = sum_per_level(weighted, locations) / weight_sum
    if lesson is not None:
        settings, taught = lesson.settings, side_parameters(lesson.box, box)
        of_sides = localization_distillation_loss(parameters, taught, settings.temperature)
        weighted = settings.weight * jnp.mean(of_sides, axis=-1) * weights
        # mmdetection sums this loss, but averages gradients over processes with two images each.
        losses["loss_ld"] = sum_per_level(weighted, locations) * (2 / used.images)
    return losses, own


def _class_losses(
    class_logits: Sequence[Float[Array, "batch n classes"]],
    classes: Int[Array, "batch locations"],
    labels: Float[Array, "batch locations"],
    locations: Locations,
    detector: config.Detector,
) -> Float[Array, "batch locations"]:
    """The classification loss of each location; `labels` are those of the true classes."""
    losses = []
    parts = (split_levels(x, locations) for x in (classes, labels))
    for logits, true_class, label in zip(class_logits, *parts, strict=True):
        one_hot = jax.nn.one_hot(true_class, detector.num_classes, dtype=logits.dtype)
        losses.append(class_loss(logits, one_hot * label[..., None], detector.classification))
    return jnp.concatenate(losses, axis=1)
