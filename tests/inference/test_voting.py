"""Variance voting alone, after non-maximum suppression, and in the compiled detector."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax import config
from gfl_jax.errors import UserError
from gfl_jax.inference.decode import Candidates
from gfl_jax.inference.detect import make_detect, select
from gfl_jax.inference.voting import variance_vote
from gfl_jax.models.network import build_detector
from gfl_jax.structures import Batch

COUNT = 6  # boxes of each example: one shape, one compilation
vote = jax.jit(variance_vote)
EVERYONE = np.ones((COUNT, COUNT), bool)

numbers = hnp.arrays(np.float32, (COUNT, 4), elements=st.floats(0, 20, width=32))
boxes_strategy = numbers.map(lambda n: np.concatenate([n[:, :2], n[:, :2] + n[:, 2:] + 1], axis=1))


def overlap(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    common = np.prod(sides)
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


@given(boxes_strategy, st.floats(0.01, 1), st.floats(0.1, 50))
def test_equal_variances_give_the_mean_weighted_by_overlap(boxes, sigma_t, variance):
    found = vote(boxes, boxes, np.full((COUNT, 4), variance, np.float32), EVERYONE, sigma_t)
    for i, box in enumerate(boxes.astype(float)):
        overlaps = np.array([overlap(box, other) for other in boxes.astype(float)])
        weights = np.where(overlaps > 0, np.exp(-((1 - overlaps) ** 2) / sigma_t), 0)
        np.testing.assert_allclose(found[i], weights @ boxes / weights.sum(), rtol=1e-4, atol=1e-4)


@given(boxes_strategy, hnp.arrays(np.float32, (COUNT, 4), elements=st.floats(0, 100, width=32)))
def test_a_side_stays_between_the_sides_of_its_voters(boxes, variances):
    """This includes variances of zero, as a distribution on one bin has."""
    found = vote(boxes, boxes, variances, EVERYONE, 0.05)
    assert np.all(np.isfinite(found))
    for i, box in enumerate(boxes.astype(float)):
        voters = boxes[[overlap(box, other) > 0 for other in boxes.astype(float)]]
        assert np.all(found[i] >= voters.min(axis=0) - 1e-3)
        assert np.all(found[i] <= voters.max(axis=0) + 1e-3)


@given(boxes_strategy)
def test_a_tiny_sigma_does_not_change_boxes(boxes):
    apart = boxes + 0.5 * np.arange(COUNT)[:, None]  # no two alike
    found = vote(apart, apart, np.ones((COUNT, 4), np.float32), EVERYONE, 1e-9)
    np.testing.assert_allclose(found, apart, atol=1e-3)


KEPT = np.array([[0, 0, 10, 10]], np.float32)


def voted(others, variances, voters=None, sigma_t=1.0):
    """The box (0, 0, 10, 10) of variance 1 after the votes of other boxes."""
    boxes = np.concatenate([KEPT, np.array(others, np.float32)])
    variances = np.concatenate([np.ones((1, 4)), np.array(variances)]).astype(np.float32)
    voters = [[True] * len(boxes)] if voters is None else voters
    return np.asarray(variance_vote(KEPT, boxes, variances, np.array(voters), sigma_t))[0]


def test_each_side_votes_by_its_own_variance():
    """The voter has an IoU of 1/2, so its weight is exp(-0.25) over a variance of 1, 4, 0 or 1e9."""
    other = [[0, 0, 10, 5]]
    weight = np.exp(-0.25)
    np.testing.assert_allclose(voted(other, [[1, 1, 1, 1]])[3], (10 + 5 * weight) / (1 + weight), rtol=1e-6)
    weight /= 4
    np.testing.assert_allclose(voted(other, [[1, 1, 1, 4]])[3], (10 + 5 * weight) / (1 + weight), rtol=1e-6)
    np.testing.assert_allclose(voted(other, [[1, 1, 1, 0]])[3], 5, rtol=1e-4)
    np.testing.assert_allclose(voted(other, [[1, 1, 1, 1e9]]), KEPT[0], rtol=1e-6)
    np.testing.assert_allclose(voted(other, [[1, 1, 1, 1]])[:3], KEPT[0, :3], atol=1e-6)


def test_boxes_that_do_not_overlap_or_may_not_vote_have_no_influence():
    np.testing.assert_array_equal(voted([[10, 0, 20, 10]], [[1e-3] * 4]), KEPT[0])
    np.testing.assert_array_equal(voted([[50, 50, 60, 60]], [[1e-3] * 4]), KEPT[0])
    np.testing.assert_array_equal(voted([[0, 0, 10, 5]], [[1e-3] * 4], [[True, False]]), KEPT[0])
    np.testing.assert_array_equal(voted([[0, 0, 10, 5]], [[1e-3] * 4], [[False, False]]), KEPT[0])


def test_variances_of_zero_give_equal_weights():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [2, 0, 12, 10]], np.float32)
    found = variance_vote(boxes, boxes, np.zeros((3, 4), np.float32), np.ones((3, 3), bool), 0.1)
    ones = variance_vote(boxes, boxes, np.ones((3, 4), np.float32), np.ones((3, 3), bool), 0.1)
    np.testing.assert_allclose(found, ones, rtol=1e-5)


def test_all_candidates_of_the_class_vote_even_suppressed_ones():
    """Two boxes of class 0 are suppressed and vote, one of class 1 is kept, and a masked one has no vote."""
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 9], [1, 0, 10, 10], [0, 0, 10, 8], [0, 0, 9, 10]], np.float32
    )
    candidates = Candidates(
        boxes=jnp.asarray(boxes),
        scores=jnp.array([0.9, 0.8, 0.7, 0.6, 0.5]),
        labels=jnp.array([0, 0, 0, 1, 0]),
        mask=jnp.array([True, True, True, True, False]),
        variances=jnp.ones((5, 4)),
        positions=jnp.arange(5) + 30,
    )
    inference = config.Inference(iou_threshold=0.5, max_detections=4, voting_sigma_t=0.1)
    detections, positions = jax.jit(lambda c: select(c, inference))(candidates)
    weights = np.exp(-(np.array([0, 0.1, 0.1]) ** 2) / 0.1)
    np.testing.assert_allclose(detections.boxes[0], weights @ boxes[:3] / weights.sum(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(detections.boxes[1], boxes[3])
    np.testing.assert_array_equal(detections.boxes[2:], 0)
    np.testing.assert_array_equal(detections.mask, [True, True, False, False])
    np.testing.assert_array_equal(positions[:2], [30, 33])
    plain, _ = select(candidates, dataclasses.replace(inference, voting_sigma_t=None))
    np.testing.assert_array_equal(plain.boxes[:2], boxes[[0, 3]])
    np.testing.assert_array_equal(plain.scores, detections.scores)


@pytest.mark.parametrize("kind", ["general", "gaussian"])
def test_the_compiled_detector_votes(small_detector, random_variables, kind):
    """Voting does not change scores and classes. It changes boxes, which stay inside the image."""
    box = dataclasses.replace(small_detector.box, kind=kind)
    model = build_detector(dataclasses.replace(small_detector, box=box))
    variables = random_variables(model, np.zeros((1, 64, 64, 3), np.float32))
    variables["params"]["head"]["class_logits"]["kernel"] *= 0.1
    variables["params"]["head"]["class_logits"]["kernel"][..., ::2] *= -1
    for name in ("kernel", "bias"):
        variables["params"]["head"]["box"][name] *= 0.02
    batch = Batch(
        images=np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8),
        image_sizes=np.array([[64, 64], [64, 64]]),
        scale_factors=np.ones((2, 2), np.float32),
        indices=np.arange(2),
        boxes=np.zeros((2, 8, 4), np.float32),
        labels=np.zeros((2, 8), int),
        box_mask=np.zeros((2, 8), bool),
    )
    found = {}
    for sigma_t in (None, 0.05):
        inference = config.Inference(score_threshold=0.0, max_detections=10, voting_sigma_t=sigma_t)
        detect = make_detect(model, config.Normalization(), inference)
        found[sigma_t] = jax.device_get(detect(variables, batch))
    plain, voted = found[None], found[0.05]
    np.testing.assert_array_equal(plain.mask, voted.mask)
    assert plain.mask.any()
    np.testing.assert_allclose(plain.scores, voted.scores, rtol=1e-6)
    np.testing.assert_array_equal(plain.labels, voted.labels)
    assert np.max(np.abs(plain.boxes - voted.boxes)) > 0.1
    assert np.all((voted.boxes >= 0) & (voted.boxes <= 64))


def test_boxes_without_variances_cannot_vote(small_detector):
    dirac = dataclasses.replace(small_detector, box=config.BoxRepresentation("dirac"))
    inference = config.Inference(voting_sigma_t=0.05)
    with pytest.raises(UserError, match=r"^config\.inference\.voting_sigma_t: ") as caught:
        make_detect(build_detector(dirac), config.Normalization(), inference)
    assert "'dirac'" in str(caught.value)
    assert "\n" not in str(caught.value)
    make_detect(build_detector(dirac), config.Normalization(), config.Inference())
