"""The figures of a detector's file, computed anew: everything in one compiled function."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from gfl_jax import config
from gfl_jax.axes.assigner import (
    Targets,
    assign_targets,
    assigner_locations,
    count_positives,
    targets_of,
)
from gfl_jax.boxes import boxes_to_distances, centerness
from gfl_jax.detection_loss import detection_losses
from gfl_jax.inference.detect import detections_from_outputs
from gfl_jax.interop.torch_names import from_torch, to_torch
from gfl_jax.models.detector import DetectorNetwork
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.structures import SIZE_DIVISOR, Batch
from gfl_jax.targets.locations import Locations, grid_sizes_of
from gfl_jax.verification.deterministic import image, weight
from gfl_jax.verification.reference import Reference

# mmdetection adds it to what it divides losses by.
EPSILON = float(np.finfo(np.float32).eps)


def deterministic_variables(model: DetectorNetwork, dtype: Any) -> dict[str, Any]:
    """The variables of a network with the reference's weights."""
    sample = jnp.zeros((1, SIZE_DIVISOR, SIZE_DIVISOR, 3))
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), sample)
    names: dict[str, tuple[int, ...]] = {}
    for collection in shapes.values():
        arrays = jax.tree.map(lambda x: np.empty(x.shape, np.int8), collection)
        names |= {name: x.shape for name, x in to_torch(arrays, model.detector).items()}
    variables = from_torch(
        {name: weight(name, shape) for name, shape in names.items()}, shapes, model.detector
    )
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)


def make_batch(reference: Reference, case: str, precision: str) -> Batch:
    """The pictures and boxes of a case, padded as the reference pads them."""
    count = len(reference.keys(f"{case}/gt_bboxes"))
    pictures = [_picture(reference[f"{case}/image{i}_seed_height_width"]) for i in range(count)]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    canvas = -(-sizes.max(axis=0) // SIZE_DIVISOR) * SIZE_DIVISOR
    max_boxes = max(len(reference[f"{c}/gt_bboxes{i}"]) for c in reference["cases"] for i in range(count))
    images = np.zeros((count, *canvas, 3), np.uint8)
    boxes = np.zeros((count, max_boxes, 4), np.float64 if precision == "float64" else np.float32)
    labels = np.zeros((count, max_boxes), np.int32)
    box_mask = np.zeros((count, max_boxes), bool)
    for i, picture in enumerate(pictures):
        truth = reference[f"{case}/gt_bboxes{i}"].reshape(-1, 4)
        images[i, : sizes[i, 0], : sizes[i, 1]] = picture
        boxes[i, : len(truth)] = truth
        labels[i, : len(truth)] = reference[f"{case}/gt_labels{i}"]
        box_mask[i, : len(truth)] = True
    scale_factors = np.stack([reference[f"{case}/scale_factor{i}_wh"] for i in range(count)])
    arrays = (images, sizes, scale_factors, np.arange(count, dtype=np.int32), boxes, labels, box_mask)
    return Batch(*map(jnp.asarray, arrays))


def _picture(seed_height_width: np.ndarray) -> np.ndarray:
    seed, height, width = (int(x) for x in seed_height_width)
    return image(seed, height, width)[..., ::-1]  # RGB


class Results(NamedTuple):
    """What a case's figures are about."""

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
    variables: Any,
    batch: Batch,
    box_index: Int[Array, "batch locations"] | None = None,
) -> Results:
    """Everything that a case's figures are about; to be compiled.

    The targets are those of an assignment, -1 where a location is not positive, if one is given.
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
    targets = assign_targets(batch, locations, strides, assigner)
    if box_index is not None:
        targets = targets_of(box_index, targets.valid, batch)
    normalizers = _reference_normalizers(targets, locations, experiment.detector)
    differentiate = jax.value_and_grad(_loss, has_aux=True)
    (_, losses), gradients = differentiate(
        variables["params"], variables["batch_stats"], model, experiment, batch, normalizers, targets
    )
    detections, _ = detections_from_outputs(outputs, batch, experiment.detector, experiment.inference)
    return Results(inputs, features, levels, outputs, targets, losses, gradients, detections)


def _loss(
    params: Any,
    batch_stats: Any,
    model: Any,
    experiment: config.Config,
    batch: Batch,
    normalizers: dict[str, Any],
    targets: Targets,
) -> tuple[Any, Any]:
    images = normalize_images(batch.images, batch.image_sizes, experiment.normalization, model.dtype)
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    losses = detection_losses(outputs, batch, experiment.detector, targets=targets)
    losses = {name: loss * normalizers[name] / (normalizers[name] + EPSILON) for name, loss in losses.items()}
    return sum(jnp.sum(x) for x in losses.values()), losses


def _reference_normalizers(
    targets: Targets, locations: Locations, detector: config.Detector
) -> dict[str, Any]:
    """What the reference divides each loss by together with its epsilon.

    For the box losses of detectors with anchors that is 1, and 4 for the sides of DFL: it
    divides them by the sum of the weights in another place, without an epsilon.
    """
    positives = jnp.maximum(count_positives(targets, detector.assigner), 1)
    box: Any = 1.0
    if detector.assigner.kind == "fcos":
        distances = boxes_to_distances(jnp.asarray(locations.points), targets.boxes)
        box = jnp.maximum(jnp.sum(centerness(distances) * targets.positive), detector.box.min_normalizer)
    return {"loss_cls": positives, "loss_centerness": positives, "loss_bbox": box, "loss_dfl": 4.0}
