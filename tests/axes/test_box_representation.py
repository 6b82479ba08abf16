"""Boxes, variances and losses of each box representation, compared with values worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.axes.box_representation import (
    BoxRepresentation,
    bins,
    box_losses,
    box_weights,
    decode_boxes,
    num_parameters,
    side_variances,
)

POINTS, STRIDES = jnp.array([[100.0, 60.0]]), jnp.array([[8.0]])
ANCHORS = jnp.array([[80.0, 40.0, 120.0, 80.0]])
CERTAIN = 200.0  # a logit that gives one bin the whole probability


def decoded(parameters, box):
    return decode_boxes(jnp.array([parameters], jnp.float32), POINTS, STRIDES, ANCHORS, box)[0]


def peaks(*bins_of_sides, count=5):
    """Logits of four sides, each with equal peaks at the given bins."""
    logits = np.zeros((4, count))
    for side, peak in enumerate(bins_of_sides):
        logits[side, list(peak)] = CERTAIN
    return logits


@pytest.mark.parametrize(
    ("box", "parameters", "expected"),
    [
        (BoxRepresentation("dirac"), [[1], [2], [0.5], [-3]], [92, 44, 104, 60]),
        (BoxRepresentation("dirac", unit="pixel"), [[1], [2], [0.5], [-3]], [99, 58, 100.5, 60]),
        (BoxRepresentation("dirac", activation="exp"), [[0], [np.log(2)], [0], [0]], [92, 44, 108, 68]),
        (BoxRepresentation("dirac", "deltas"), [[1], [-2], [0], [5 * np.log(2)]], [84, 12, 124, 92]),
        (BoxRepresentation("gaussian"), [[1, 9], [2, -9], [0.5, 0], [-3, 1]], [92, 44, 104, 60]),
        (BoxRepresentation("general", reg_max=4), peaks([1], [2], [0, 1], [4]), [92, 44, 104, 92]),
        (
            BoxRepresentation("general", reg_max=4, spacing=0.5),
            peaks([1], [2], [0, 1], [4]),
            [96, 52, 102, 76],
        ),
        (
            BoxRepresentation("general", reg_max=4, unit="pixel"),  # has no effect on a general distribution
            peaks([1], [2], [0, 1], [4]),
            [92, 44, 104, 92],
        ),
    ],
)
def test_boxes_by_hand(box, parameters, expected):
    np.testing.assert_allclose(decoded(parameters, box), expected, rtol=1e-5)
    assert np.shape(parameters)[-1] == num_parameters(box)


@pytest.mark.parametrize("spacing", [0.5, 1.0, 4.0])
def test_variances_of_a_general_distribution_by_hand(spacing):
    """The sides peak at one bin, at two neighbors, at two bins three apart, and at all five bins alike."""
    box = BoxRepresentation("general", reg_max=4, spacing=spacing)
    parameters = peaks([2], [1, 2], [0, 3], [0, 1, 2, 3, 4])
    for stride in (1.0, 8.0):
        found = side_variances(jnp.array(parameters), jnp.array([stride]), box)
        np.testing.assert_allclose(found, np.array([0, 0.25, 2.25, 2]) * (spacing * stride) ** 2, atol=1e-4)
    np.testing.assert_array_equal(bins(box), np.arange(5) * spacing)


@pytest.mark.parametrize("certainty", [5.0, 15.0, 25.0])
def test_variances_of_sharp_distributions_are_precise(certainty):
    """Nearly all probability is on the last of 17 bins, where E[y^2] - E[y]^2 loses the digits to 256."""
    logits = np.zeros((4, 17))
    logits[:, 16] = certainty + np.arange(4)
    shares = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)
    below = np.arange(17) - 16.0
    expected = shares @ below**2 - (shares @ below) ** 2
    found = side_variances(jnp.asarray(logits, jnp.float32), jnp.array([8.0]), BoxRepresentation("general"))
    np.testing.assert_allclose(found, 64 * expected, rtol=1e-5)


def test_variances_of_a_gaussian_by_hand():
    parameters = jnp.array([[5, 0], [-1, np.log(4)], [0, np.log(0.25)], [2, -50]], jnp.float32)
    in_strides = side_variances(parameters, jnp.array([8.0]), BoxRepresentation("gaussian"))
    np.testing.assert_allclose(in_strides, [64, 256, 16, 0], rtol=1e-5, atol=1e-9)
    in_pixels = side_variances(parameters, jnp.array([8.0]), BoxRepresentation("gaussian", unit="pixel"))
    np.testing.assert_allclose(in_pixels, [1, 4, 0.25, 0], rtol=1e-5, atol=1e-9)


def losses_of(box, parameters, boxes, true_boxes):
    """The losses of one location at (0, 0); boxes are in strides."""
    arrays = (jnp.array([x], jnp.float32) for x in (parameters, boxes, true_boxes, [0, 0]))
    found = box_losses(*arrays, STRIDES, box)
    return {name: float(loss[0]) for name, loss in found.items()}


def test_box_losses_by_hand():
    """The predicted box is the true one without its right half: IoU and GIoU are 0.5."""
    true_box, half = [-1.0, -1.0, 3.0, 1.0], [-1.0, -1.0, 1.0, 1.0]
    dirac = losses_of(BoxRepresentation("dirac", loss_weight=3.0), [[1], [1], [1], [1]], half, true_box)
    assert dirac == pytest.approx({"loss_bbox": 1.5})
    iou = losses_of(BoxRepresentation("dirac", loss="iou"), [[1], [1], [1], [1]], half, true_box)
    assert iou == pytest.approx({"loss_bbox": 2 * np.log(2)})
    gaussian = losses_of(BoxRepresentation("gaussian"), [[1, 0], [1, 0], [1, 1], [1, 0]], half, true_box)
    assert gaussian == pytest.approx({"loss_bbox": 1, "loss_likelihood": 0.1 * (4 / np.e + 1) / 2 / 4})
    pixels = BoxRepresentation("gaussian", unit="pixel")
    in_pixels = losses_of(pixels, [[8, 0], [8, 0], [8, 1], [8, 0]], half, true_box)
    assert in_pixels == pytest.approx(gaussian)
    even = BoxRepresentation("general", reg_max=4)
    assert losses_of(even, np.zeros((4, 5)), half, true_box) == pytest.approx(
        {"loss_bbox": 1, "loss_dfl": 0.25 * np.log(5)}
    )
    without = BoxRepresentation("general", reg_max=4, dfl_weight=0.0)
    assert losses_of(without, np.zeros((4, 5)), half, true_box) == pytest.approx({"loss_bbox": 1})


def test_weights_are_best_scores_or_centerness_or_equal():
    logits = jnp.array([0.0, 9.0])
    centerness, positive = jnp.array([0.25, 0.75]), jnp.array([True, False])
    for weighting, expected in (("score", 0.5), ("centerness", 0.25), ("none", 1)):
        box = BoxRepresentation(weighting=weighting)
        np.testing.assert_allclose(box_weights(logits, centerness, positive, box), [expected, 0])
