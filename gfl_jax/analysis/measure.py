"""The measures that the analyses need, computed for a batch on the device in one compiled function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gfl_jax import config
from gfl_jax.axes.assigner import Targets, assign_targets, assigner_locations, canvas_locations
from gfl_jax.axes.box_representation import decode_boxes, side_parameters
from gfl_jax.boxes import boxes_to_distances, centerness, iou
from gfl_jax.inference.detect import check_voting, detections_from_outputs, head_outputs
from gfl_jax.models.network import DetectorNetwork
from gfl_jax.pixel_blocks import canvas_size
from gfl_jax.structures import Batch, Detections, HeadOutputs
from gfl_jax.targets.locations import Locations, flatten_levels, grid_sizes_of


class DetectionMeasures(NamedTuple):
    """The final detections and the locations that predicted them, in pixels of the network's input."""

    detections: Detections
    quality: Float[Array, "batch detections"]  # predicted
    iou: Float[Array, "batch detections"]  # with the ground-truth box of the same class that it overlaps most
    points: Float[Array, "batch detections 2"]  # the locations that predicted them
    strides: Float[Array, "batch detections"]
    probabilities: Float[
        Array, "batch detections 4 bins"
    ]  # of the sides; no bins unless the boxes are general


class Measures(NamedTuple):
    """Measures of the locations, and of the detections if there is a network."""

    box_index: Int[Array, "batch locations"]  # the ground-truth box that a location is positive for, or -1
    labels: dict[str, Float[Array, "batch locations"]]  # "centerness"; with a network, "IoU"
    quality: Float[Array, "batch locations"] | None  # predicted, for the class of the ground-truth box
    found: DetectionMeasures | None


Measure = Callable[[Any, Batch], Measures]


def make_measure(
    model: DetectorNetwork, normalization: config.Normalization, inference: config.Inference
) -> Measure:
    """Makes a jitted function (variables, batch) -> Measures. It compiles once for each batch shape.

    Raises:
      UserError: variance voting is configured, but the boxes have no variances.
    """
    detector = model.detector
    check_voting(detector, inference)

    @jax.jit
    def measure(variables: Any, batch: Batch) -> Measures:
        outputs = head_outputs(model, variables, batch, normalization)
        locations = assigner_locations(
            grid_sizes_of(outputs.class_logits), detector.strides, detector.assigner
        )
        targets = assign_targets(batch, locations, detector.strides, detector.assigner)
        parameters = side_parameters(outputs.box, detector.box)
        points, strides = jnp.asarray(locations.points), jnp.asarray(locations.strides)[:, None]
        boxes = decode_boxes(parameters, points, strides, jnp.asarray(locations.anchors), detector.box)
        labels = {"IoU": iou(boxes, targets.boxes), "centerness": _centerness(targets, locations)}
        found = _measure_detections(outputs, parameters, locations, batch, detector, inference)
        return Measures(targets.box_index, labels, _quality(outputs, targets, detector), found)

    return measure


def make_label_measure(detector: config.Detector) -> Measure:
    """Makes the same function for a detector without a network: it measures only the centerness."""

    @jax.jit
    def measure(_: Any, batch: Batch) -> Measures:
        locations = canvas_locations(canvas_size(batch.images), detector.strides, detector.assigner)
        targets = assign_targets(batch, locations, detector.strides, detector.assigner)
        return Measures(targets.box_index, {"centerness": _centerness(targets, locations)}, None, None)

    return measure


def _centerness(targets: Targets, locations: Locations) -> Float[Array, "batch locations"]:
    return centerness(boxes_to_distances(jnp.asarray(locations.points), targets.boxes))


def _quality(
    outputs: HeadOutputs, targets: Targets, detector: config.Detector
) -> Float[Array, "batch locations"]:
    """The quality of each location for its ground-truth box: the branch's score, or else the class score."""
    if outputs.quality:
        return jax.nn.sigmoid(flatten_levels(outputs.quality, 1)[..., 0])
    logits = flatten_levels(outputs.class_logits, detector.num_classes)
    of_class = jnp.take_along_axis(logits, jnp.maximum(targets.labels, 0)[..., None], axis=-1)
    return jax.nn.sigmoid(of_class[..., 0])


def _measure_detections(
    outputs: HeadOutputs,
    parameters: Float[Array, "batch locations 4 k"],
    locations: Locations,
    batch: Batch,
    detector: config.Detector,
    inference: config.Inference,
) -> DetectionMeasures:
    detections, positions = detections_from_outputs(outputs, batch, detector, inference)
    quality = detections.scores
    if outputs.quality:
        of_branch = flatten_levels(outputs.quality, 1)[..., 0]
        quality = jax.nn.sigmoid(jnp.take_along_axis(of_branch, positions, axis=1))
    same_class = (detections.labels[:, :, None] == batch.labels[:, None]) & batch.box_mask[:, None]
    overlaps = iou(detections.boxes[:, :, None], batch.boxes[:, None])
    sides = jnp.take_along_axis(parameters, positions[..., None, None], axis=1)
    general = detector.box.kind == "general"
    return DetectionMeasures(
        detections=detections,
        quality=quality,
        iou=jnp.max(jnp.where(same_class, overlaps, 0), axis=-1),
        points=jnp.asarray(locations.points)[positions],
        strides=jnp.asarray(locations.strides)[positions],
        probabilities=jax.nn.softmax(sides, axis=-1) if general else sides[..., :0],
    )
