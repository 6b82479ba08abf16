"""Recomputes the reference values of a detector, in one compiled function."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfl_jax import config
from gfl_jax.axes.assigner import (
    Targets,
    assign_targets,
    assigner_locations,
    count_positives,
    make_targets,
)
from gfl_jax.boxes import boxes_to_distances, centerness
from gfl_jax.detection_loss import Lesson, detection_losses
from gfl_jax.inference.detect import detections_from_outputs
from gfl_jax.interop.torch_names import from_torch, to_torch
from gfl_jax.models.network import DetectorNetwork
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.structures import SIZE_DIVISOR, Batch
from gfl_jax.targets.locations import Locations, grid_sizes_of
from gfl_jax.training.teacher import Teacher, box_maps
from gfl_jax.verification.deterministic import image, weight
from gfl_jax.verification.reference import Reference
from gfl_jax.verification.ties import is_explained_by_ties

# mmdetection adds it to the divisors of its losses.
EPSILON = float(np.finfo(np.float32).eps)


def deterministic_variables(model: DetectorNetwork, dtype: Any, prefix: str = "") -> dict[str, Any]:
    """The variables of a network with the reference's weights, generated from their names with a prefix."""
    sample = jnp.zeros((1, SIZE_DIVISOR, SIZE_DIVISOR, 3))
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), sample)
    names: dict[str, tuple[int, ...]] = {}
    for collection in shapes.values():
        arrays = jax.tree.map(lambda x: np.empty(x.shape, np.int8), collection)
        names |= {name: x.shape for name, x in to_torch(arrays, model.detector).items()}
    variables = from_torch(
        {name: weight(prefix + name, shape) for name, shape in names.items()}, shapes, model.detector
    )
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, dtype)), variables)


def make_batch(reference: Reference, case: str, precision: str) -> Batch:
    """The images and boxes of a case, padded as in the reference."""
    count = len(reference.keys(f"{case}/gt_bboxes"))
    case_images = [_case_image(reference[f"{case}/image{i}_seed_height_width"]) for i in range(count)]
    sizes = np.array([case_image.shape[:2] for case_image in case_images], np.int32)
    canvas = -(-sizes.max(axis=0) // SIZE_DIVISOR) * SIZE_DIVISOR
    max_boxes = max(len(reference[f"{c}/gt_bboxes{i}"]) for c in reference["cases"] for i in range(count))
    images = np.zeros((count, *canvas, 3), np.uint8)
    boxes = np.zeros((count, max_boxes, 4), np.float64 if precision == "float64" else np.float32)
    labels = np.zeros((count, max_boxes), np.int32)
    box_mask = np.zeros((count, max_boxes), bool)
    for i, case_image in enumerate(case_images):
        truth = reference[f"{case}/gt_bboxes{i}"].reshape(-1, 4)
        images[i, : sizes[i, 0], : sizes[i, 1]] = case_image
        boxes[i, : len(truth)] = truth
        labels[i, : len(truth)] = reference[f"{case}/gt_labels{i}"]
        box_mask[i, : len(truth)] = True
    scale_factors = np.stack([reference[f"{case}/scale_factor{i}_wh"] for i in range(count)])
    arrays = (images, sizes, scale_factors, np.arange(count, dtype=np.int32), boxes, labels, box_mask)
    return Batch(*map(jnp.asarray, arrays))


def _case_image(seed_height_width: np.ndarray) -> np.ndarray:
    seed, height, width = (int(x) for x in seed_height_width)
    return image(seed, height, width)[..., ::-1]  # RGB


def case_targets(
    reference: Reference, case: str, batch: Batch, detector: config.Detector
) -> tuple[Targets, int]:
    """The targets of a case: ours, or the reference's where they differ from ours only by ties in ATSS.

    Returns:
      The targets, and the number of locations that differ by ties.
    """
    locations = _locations(batch, detector)
    ours = _assign(batch, detector)
    if detector.assigner.kind != "atss":
        return ours, 0
    index, valid, ties = np.array(ours.box_index), np.asarray(ours.valid), 0
    for i, key in enumerate(f"{case}/assign/img{i}_gt_inds" for i in range(len(index))):
        if key not in reference or reference[key].shape != (np.sum(valid[i]),):
            continue
        theirs = np.full_like(index[i], -1)
        theirs[valid[i]] = reference[key] - 1
        different = int(np.sum(theirs != index[i]))
        # In the precision of the reference. Ties must explain our assignment too, or the error is ours.
        boxes = reference[f"{case}/gt_bboxes{i}"].reshape(-1, 4).astype(np.float64)
        scene = (boxes, valid[i], locations, detector.assigner.topk)
        if different and all(is_explained_by_ties(assigned, *scene) for assigned in (index[i], theirs)):
            index[i], ties = theirs, ties + different
    return make_targets(batch, jnp.asarray(index), ours.valid), ties


@partial(jax.jit, static_argnames="detector")
def _assign(batch: Batch, detector: config.Detector) -> Targets:
    return assign_targets(batch, _locations(batch, detector), detector.strides, detector.assigner)


def _locations(batch: Batch, detector: config.Detector) -> Locations:
    height, width = batch.images.shape[1:3]
    grid_sizes = tuple((-(-height // s), -(-width // s)) for s in detector.strides)
    return assigner_locations(grid_sizes, detector.strides, detector.assigner)


class Results(NamedTuple):
    """The results that are compared with the reference values of a case."""

    inputs: Any
    features: Any  # C2 to C5
    levels: Any  # P3 to P7
    outputs: Any
    targets: Any
    losses: Any
    gradients: Any
    detections: Any


def recompute(
    model: DetectorNetwork,
    experiment: config.Config,
    teacher: Teacher | None,
    variables: Any,
    teacher_variables: Any,
    batch: Batch,
    targets: Targets,
) -> Results:
    """Computes everything that is compared with the reference values of a case; callers compile it.

    Args:
      model: the network.
      experiment: the config of the detector.
      teacher: None if there is no teacher.
      variables: of the network.
      teacher_variables: of the teacher's network.
      batch: from `make_batch`.
      targets: from `case_targets`.
    """
    inputs = normalize_images(batch.images, batch.image_sizes, experiment.normalization, model.dtype)

    def forward(network: DetectorNetwork) -> Any:
        features = network.backbone(inputs)
        levels = network.pyramid(features)
        return features, levels, network.head(levels)

    run_parts: Any = model.apply(variables, method=forward)
    features, levels, outputs = run_parts
    strides, assigner = experiment.detector.strides, experiment.detector.assigner
    locations = assigner_locations(grid_sizes_of(levels), strides, assigner)
    normalizers = _reference_normalizers(targets, locations, experiment.detector)
    differentiate = jax.value_and_grad(_loss, has_aux=True)
    lesson = teacher and Lesson(box_maps(teacher, teacher_variables, batch), experiment.distillation)
    (_, losses), gradients = differentiate(
        variables["params"], variables["batch_stats"], model, experiment, batch, targets, normalizers, lesson
    )
    detections, _ = detections_from_outputs(outputs, batch, experiment.detector, experiment.inference)
    return Results(inputs, features, levels, outputs, targets, losses, gradients, detections)


def _loss(
    params: Any,
    batch_stats: Any,
    model: Any,
    experiment: config.Config,
    batch: Batch,
    targets: Targets,
    normalizers: dict[str, Any],
    lesson: Lesson | None,
) -> tuple[Any, Any]:
    images = normalize_images(batch.images, batch.image_sizes, experiment.normalization, model.dtype)
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    losses = detection_losses(outputs, batch, experiment.detector, targets=targets, lesson=lesson)
    losses = {name: loss * normalizers[name] / (normalizers[name] + EPSILON) for name, loss in losses.items()}
    return sum(jnp.sum(x) for x in losses.values()), losses


def _reference_normalizers(
    targets: Targets, locations: Locations, detector: config.Detector
) -> dict[str, Any]:
    """For each loss, the number that the reference divides it by, without the epsilon that it adds.

    For the box losses of detectors with anchors the number is 1, and 4 for the sides of DFL and LD. The
    reference divides these losses by the sum of the weights elsewhere, without an epsilon, or not at all.
    """
    positives = jnp.maximum(count_positives(targets, detector.assigner), 1)
    box: Any = 1.0
    if detector.assigner.kind == "fcos":
        distances = boxes_to_distances(jnp.asarray(locations.points), targets.boxes)
        box = jnp.maximum(jnp.sum(centerness(distances) * targets.positive), detector.box.min_normalizer)
    of_classes = {"loss_cls": positives, "loss_centerness": positives}
    return of_classes | {"loss_bbox": box, "loss_dfl": 4.0, "loss_ld": 4.0}
