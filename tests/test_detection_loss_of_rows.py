"""The losses of the rows of the tables on random outputs, compared with formulas in numpy float64."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from gfl_jax.axes.assigner import assign_targets, assigner_locations
from gfl_jax.axes.box_representation import num_parameters
from gfl_jax.configuration.config_files import load_config, load_module
from gfl_jax.detection_loss import detection_losses
from gfl_jax.structures import Batch, HeadOutputs

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = {name: CONFIGS / f"table_{name}.py" for name in ("1", "boxes", "qfl")}
ROWS = [(name, row) for name, file in FILES.items() for row in load_module(file).ROWS]
ROWS = [
    (name, row) for name, row in ROWS if name != "qfl" or row.column == "RetinaNet"
]  # the others are in table 1
STRIDES, GRIDS, CLASSES = (8, 16), ((8, 12), (4, 6)), 3  # of a canvas of 64 x 96
IMAGES = 3
BATCH = Batch(  # the last image has no boxes
    images=np.zeros((IMAGES, 64, 96, 3), np.uint8),
    image_sizes=np.array([[64, 96], [40, 50], [64, 96]]),
    scale_factors=np.ones((IMAGES, 2), np.float32),
    indices=np.arange(IMAGES),
    boxes=np.array(
        [
            [[8, 8, 40, 40], [57, 20, 86, 55], [12, 0, 82, 61]],
            [[4, 2, 28, 30], [0, 0, 9, 9], [0, 0, 9, 9]],
            [[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]],
        ],
        np.float32,
    ),
    labels=np.array([[2, 1, 0], [1, 0, 0], [0, 0, 0]]),
    box_mask=np.arange(3) < np.array([[3], [1], [0]]),
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(scores, labels):
    return -labels * np.log(scores) - (1 - labels) * np.log(1 - scores)


def decoded(parameters, points, strides, anchors, box):
    """Boxes in pixels, and the distances they were decoded from, in strides; None for deltas."""
    if box.coding == "deltas":
        dx, dy, dw, dh = (parameters[..., 0] * [0.1, 0.1, 0.2, 0.2]).T
        x1, y1, x2, y2 = anchors.T
        x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        w, h = (x2 - x1) * np.exp(dw), (y2 - y1) * np.exp(dh)
        return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1), None
    if box.kind == "general":
        shares = np.exp(parameters) / np.exp(parameters).sum(axis=-1, keepdims=True)
        distances = shares @ np.arange(box.reg_max + 1.0)
    else:
        means = parameters[..., 0]
        distances = np.exp(means) if box.activation == "exp" else np.maximum(means, 0)
    reach = distances * strides[:, None]
    return np.concatenate([points - reach[:, :2], points + reach[:, 2:]], axis=1), distances


def overlaps(a, b):
    """IoU, and what GIoU subtracts."""
    common = np.prod(np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - common
    hull = np.prod(np.maximum(a[:, 2:], b[:, 2:]) - np.minimum(a[:, :2], b[:, :2]), axis=1)
    return common / union, (hull - union) / hull


def losses_by_hand(logits, parameters, quality, locations, targets, detector):
    """Losses summed over batch and levels. The head's outputs are arrays (batch, locations, ...)."""
    box, loss, positive = detector.box, detector.classification, targets.positive
    points, strides, anchors = (
        np.broadcast_to(x, (IMAGES, *x.shape))[positive].astype(float)
        for x in (locations.points, locations.strides, locations.anchors)
    )
    true_boxes, parameters = targets.boxes[positive].astype(float), parameters[positive]
    boxes, distances = decoded(parameters, points, strides, anchors, box)
    iou, beyond = overlaps(boxes, true_boxes)
    sides = np.concatenate([points - true_boxes[:, :2], true_boxes[:, 2:] - points], axis=1)
    low, high = np.minimum(sides[:, :2], sides[:, 2:]), np.maximum(sides[:, :2], sides[:, 2:])
    centerness = np.sqrt(np.prod(np.maximum(low, 0) / high, axis=1))

    labels, scores = np.zeros_like(logits), sigmoid(logits)
    labels[(*np.nonzero(positive), targets.labels[positive])] = iou if detector.quality == "joint" else 1
    class_loss = {
        "focal": np.where(labels == 1, 0.25, 0.75) * (labels - scores) ** 2 * cross_entropy(scores, labels),
        "quality_focal": np.abs(labels - scores) ** 2 * cross_entropy(scores, labels),
        "l2": (labels - scores) ** 2,
    }[loss.kind]
    of_image = positive.sum(axis=1)
    count = of_image.sum() if detector.assigner.kind == "fcos" else np.maximum(of_image, 1).sum()
    losses = {"loss_cls": class_loss[targets.valid].sum() / count}
    if detector.quality in ("iou", "centerness"):
        label = {"iou": iou, "centerness": centerness}[detector.quality]
        losses[f"loss_{detector.quality}"] = cross_entropy(sigmoid(quality[positive]), label).sum() / count

    weights = {
        "score": scores[positive].max(axis=1),
        "centerness": centerness,
        "none": np.ones(len(iou)),
    }[box.weighting]
    normalizer = max(weights.sum(), box.min_normalizer)
    losses["loss_bbox"] = 2 * np.sum(weights * (1 - iou + beyond)) / normalizer
    wanted = sides / strides[:, None]
    if box.kind == "gaussian":
        log_variance = parameters[..., 1]
        likelihood = ((distances - wanted) ** 2 / np.exp(log_variance) + log_variance) / 2
        losses["loss_likelihood"] = 0.1 * np.sum(weights * likelihood.mean(axis=1)) / normalizer
    if box.kind == "general" and box.dfl_weight:
        wanted = np.clip(wanted, 0, box.reg_max - 0.1)
        log_shares = parameters - np.log(np.exp(parameters).sum(axis=-1, keepdims=True))
        near = np.maximum(1 - np.abs(np.arange(box.reg_max + 1) - wanted[..., None]), 0)
        dfl = -np.sum(near * log_shares, axis=-1).mean(axis=1)
        losses["loss_dfl"] = 0.25 * np.sum(weights * dfl) / normalizer
    return losses


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}-{row.name}" for table, row in ROWS])
def test_losses_of_a_row_by_hand(table, row):
    arguments = ",".join(f"{name}={value}" for name, value in row.arguments.items())
    detector = load_config(f"{FILES[table]}:{arguments},dataset=trees").detector
    assigner = dataclasses.replace(detector.assigner, range_bounds=(24,))
    detector = dataclasses.replace(detector, num_classes=CLASSES, strides=STRIDES, assigner=assigner)
    locations = assigner_locations(GRIDS, STRIDES, assigner)
    anchors = len(locations.points) // sum(rows * columns for rows, columns in GRIDS)
    rng = np.random.default_rng(0)

    def maps(channels, mean=0.0):
        shapes = [(IMAGES, *grid, anchors * channels) for grid in GRIDS]
        return tuple(rng.normal(mean, 1, shape).astype(np.float32) for shape in shapes)

    def flat(levels, *shape):
        return np.concatenate([x.reshape(IMAGES, -1, *shape) for x in levels], axis=1).astype(float)

    branch = maps(1) if detector.quality in ("iou", "centerness") else ()
    per_side = num_parameters(detector.box)
    outputs = HeadOutputs(
        maps(CLASSES), maps(4 * per_side, 1.0 if detector.box.coding == "distances" else 0.0), branch
    )

    def compute(outputs, batch):
        targets = assign_targets(batch, locations, STRIDES, assigner)
        return detection_losses(outputs, batch, detector), targets

    compiled = jax.jit(compute).lower(outputs, BATCH).compile()
    found, targets = jax.device_get(compiled(outputs, BATCH))
    expected = losses_by_hand(
        flat(outputs.class_logits, CLASSES),
        flat(outputs.box, 4, per_side),
        flat(branch) if branch else None,
        locations,
        targets,
        detector,
    )
    assert targets.positive.sum() > 5
    assert found.keys() == expected.keys()
    for name, loss in found.items():
        np.testing.assert_allclose(loss.sum(), expected[name], rtol=1e-4, err_msg=name)
