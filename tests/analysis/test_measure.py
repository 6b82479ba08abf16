"""The measures of a batch, for head outputs with hand-computed boxes, scores and IoUs."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.analysis.measure import make_label_measure, make_measure
from gfl_jax.structures import Batch, HeadOutputs

SHARES = np.array([0.25, 0.5, 0.25, 0, 0])  # probabilities of the bins 0..4: a distance of one stride
CLASS_SCORES = np.array([[0.2, 0.6], [0.7, 0.1]])  # of the two locations
BRANCH_SCORES = np.array([0.3, 0.9])


def detector(**changes):
    """Two classes, one level of stride 16, with locations at 8, 24, 40, ..."""
    return config.Detector(
        num_classes=2,
        strides=(16,),
        assigner=config.Assigner(kind="fcos", range_bounds=()),
        box=config.BoxRepresentation(reg_max=4),
        **changes,
    )


def batch_of(boxes, labels, height, width):
    """One image with these boxes and one padding box."""
    return Batch(
        images=np.zeros((1, height, width, 3), np.uint8),
        image_sizes=np.array([[height, width]]),
        scale_factors=np.ones((1, 2), np.float32),
        indices=np.zeros(1, np.int32),
        boxes=np.array([[*boxes, [0, 0, 1, 1]]], np.float32),
        labels=np.array([[*labels, 0]]),
        box_mask=np.array([[True] * len(boxes) + [False]]),
    )


def logit(p):
    return np.log(p / (1 - p))


def measured(quality):
    """Measures of two locations, at (8, 8) and (24, 8), that both predict distances of 16 pixels."""
    point = detector(quality=quality)
    sides = np.tile(np.log(np.maximum(SHARES, 1e-30)), 4)
    branch = (jnp.asarray(logit(BRANCH_SCORES)).reshape(1, 1, 2, 1),)
    outputs = HeadOutputs(
        class_logits=(jnp.asarray(logit(CLASS_SCORES)).reshape(1, 1, 2, 2),),
        box=(jnp.tile(jnp.asarray(sides, jnp.float32), (1, 1, 2, 1)),),
        quality=branch if quality in ("iou", "centerness") else (),
    )
    model = SimpleNamespace(detector=point, dtype=jnp.float32, apply=lambda variables, images: outputs)
    inference = config.Inference(iou_threshold=1.0, max_detections=3)
    # A box of class 1 around the left location, one of class 0 around the right one.
    batch = batch_of([[0, 0, 16, 16], [16, 0, 32, 12]], [1, 0], 16, 32)
    return jax.device_get(make_measure(model, config.Normalization(), inference)(None, batch))


@pytest.fixture(scope="module")
def joint():
    return measured("joint")


@pytest.fixture(scope="module")
def branch():
    return measured("iou")


def test_labels_of_the_positives(joint):
    np.testing.assert_array_equal(joint.box_index, [[0, 1]])
    # The predictions are (-8, -8, 24, 24) and (8, -8, 40, 24).
    np.testing.assert_allclose(joint.labels["IoU"], [[16 * 16 / 32**2, 16 * 12 / 32**2]], rtol=1e-5)
    np.testing.assert_allclose(joint.labels["centerness"], [[1, np.sqrt(4 / 8)]], rtol=1e-6)


def test_the_predicted_quality_of_positives(joint, branch):
    np.testing.assert_allclose(joint.quality, [[0.6, 0.7]], rtol=1e-5)  # for the ground-truth classes
    np.testing.assert_allclose(branch.quality, [[0.3, 0.9]], rtol=1e-5)


def test_detections_of_a_joint_score(joint):
    found = joint.found
    np.testing.assert_allclose(found.detections.scores, [[0.7, 0.6, 0.2]], rtol=1e-5)
    np.testing.assert_array_equal(found.quality, found.detections.scores)
    np.testing.assert_array_equal(found.detections.labels, [[0, 1, 0]])
    np.testing.assert_array_equal(found.points, [[[24, 8], [8, 8], [8, 8]]])
    np.testing.assert_array_equal(found.strides, [[16, 16, 16]])
    # IoU of (8, 0, 32, 16) with the box of class 0, and of (0, 0, 24, 16) with those of classes 1 and 0.
    overlaps = [16 * 12 / (24 * 16), 16 * 16 / (24 * 16), 8 * 12 / (24 * 16 + 16 * 12 - 8 * 12)]
    np.testing.assert_allclose(found.iou, [overlaps], rtol=1e-5)
    np.testing.assert_allclose(found.probabilities, np.tile(SHARES, (1, 3, 4, 1)), atol=1e-6)


def test_the_quality_of_detections_is_that_of_the_branch(branch):
    scores = [0.7 * 0.9, 0.6 * 0.3, 0.1 * 0.9]
    np.testing.assert_allclose(branch.found.detections.scores, [scores], rtol=1e-5)
    np.testing.assert_allclose(branch.found.quality, [[0.9, 0.3, 0.9]], rtol=1e-5)


def test_centerness_without_a_network():
    """The flaw that the paper names: the middle box has no location near its center; the last has none."""
    boxes = [[32, 0, 64, 16], [0, 0, 12, 16], [42, 2, 46, 6]]
    batch = batch_of(boxes, [0, 1, 0], 16, 64)
    measures = jax.device_get(make_label_measure(detector())(None, batch))
    np.testing.assert_array_equal(measures.box_index, [[1, -1, 0, 0]])
    positive = measures.labels["centerness"][0][[0, 2, 3]]
    np.testing.assert_allclose(positive, [np.sqrt(4 / 8), np.sqrt(8 / 24), np.sqrt(8 / 24)], rtol=1e-6)
    assert list(measures.labels) == ["centerness"]
    assert measures.quality is None
    assert measures.found is None
