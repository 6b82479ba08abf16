"""Assignments that differ in the choice among equally near locations, and those that are wrong."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.axes.assigner import Assigner, assign_targets, assigner_locations, targets_of
from gfl_jax.boxes import iou
from gfl_jax.config import Config
from gfl_jax.detection_loss import detection_losses
from gfl_jax.overrides import override
from gfl_jax.structures import Batch, HeadOutputs
from gfl_jax.targets.atss import MIN_DISTANCE
from gfl_jax.verification.detector import _other_ties
from gfl_jax.verification.reference import Reference
from gfl_jax.verification.ties import boxes_with_other_ties

STRIDES, TOPK = (8, 16, 32, 64), 9
GRIDS = tuple((-(-480 // s), -(-672 // s)) for s in STRIDES)
LOCATIONS = assigner_locations(GRIDS, STRIDES, Assigner(topk=TOPK))
VALID = np.ones(len(LOCATIONS.points), bool)
HALF_SIDES = LOCATIONS.strides * 4.0


def algorithm_1(boxes, order, locations=LOCATIONS, valid=VALID, anchor_scale=8.0):
    """ATSS with numpy in float64; of equally near locations the first in `order` are taken."""
    points = locations.points.astype(np.float64)
    half_sides = locations.strides[:, None] * anchor_scale / 2
    anchors = np.concatenate([points - half_sides, points + half_sides], axis=1)
    best, assigned = np.full(len(points), -1.0), np.full(len(points), -1)
    for j, box in enumerate(boxes.astype(np.float64)):
        overlaps = np.asarray(iou(box[None], anchors))
        distance = np.hypot(*(points - (box[:2] + box[2:]) / 2).T)
        taken = []
        for level in range(locations.levels.max() + 1):
            here = np.flatnonzero((locations.levels == level) & valid)
            taken.append(here[np.lexsort((order[here], distance[here]))[:TOPK]])
        taken = np.concatenate(taken)
        threshold = overlaps[taken].mean() + overlaps[taken].std(ddof=1)
        inside = np.concatenate([points - box[:2], box[2:] - points], axis=1).min(axis=1) > MIN_DISTANCE
        positive = taken[(overlaps[taken] >= threshold) & inside[taken]]
        wins = positive[overlaps[positive] > best[positive]]
        best[wins], assigned[wins] = overlaps[wins], j
    return assigned


def explained(assigned, ours, boxes):
    return boxes_with_other_ties(
        assigned, ours, boxes, LOCATIONS.points, LOCATIONS.levels, HALF_SIDES, VALID, TOPK
    )


@pytest.fixture(autouse=True, scope="module")
def wide():
    """The reference's figures are in float64."""
    with jax.enable_x64(True):
        yield


# Sides and corners in eights put centers on the grid, halves of them beside it.
BOXES = st.lists(
    st.tuples(st.integers(0, 70), st.integers(0, 45), st.integers(2, 80), st.integers(2, 60)).map(
        lambda box: (4 * box[0], 4 * box[1], min(4 * (box[0] + box[2]), 672), min(4 * (box[1] + box[3]), 480))
    ),
    min_size=1,
    max_size=4,
)


@given(BOXES, st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_every_order_of_the_tied_ones_is_explained(boxes, seed):
    boxes = np.array([*boxes, (0, 0, 672, 480)], np.float32)
    first = algorithm_1(boxes, np.arange(len(VALID)))
    other = algorithm_1(boxes, np.random.default_rng(seed).permutation(len(VALID)))
    assert explained(first, first, boxes) == 0
    found = explained(other, first, boxes)
    assert found is not None
    assert (found == 0) == (other == first).all()


@given(BOXES, st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_a_location_that_is_given_wrongly_is_no_tie(boxes, seed):
    """A positive far from its box; boxes without any."""
    boxes = np.array([*boxes, (0, 0, 672, 480)], np.float32)
    rng = np.random.default_rng(seed)
    right = algorithm_1(boxes, rng.permutation(len(VALID)))
    far = right.copy()
    distance = np.hypot(*(LOCATIONS.points - (boxes[0, :2] + boxes[0, 2:]) / 2).T)
    far[int(np.argmax(distance * (LOCATIONS.levels == 0)))] = 0
    assert explained(far, right, boxes) is None
    missing = right.copy()
    missing[right >= 0] = -1  # no box has anything
    assert explained(missing, right, boxes) is None


def test_the_whole_image_as_a_box():
    """Its center lies on the grid of every level, as in reference files of other sizes."""
    boxes = np.array([[0, 0, 672, 480]], np.float32)
    first = algorithm_1(boxes, np.arange(len(VALID)))
    last = algorithm_1(boxes, -np.arange(len(VALID)))
    assert (first != last).any()
    assert explained(last, first, boxes) == 1
    wrong = last.copy()
    wrong[np.flatnonzero(last == 0)[0]] = -1
    assert explained(wrong, first, boxes) is None


def test_a_reference_with_other_ties_is_compared_with_its_own_assignment(tmp_path):
    """And one with an error is not: its targets are then compared with ours, and fail."""
    boxes = np.array([[0, 0, 672, 480], [96, 96, 160, 224]], np.float32)
    batch = Batch(
        images=np.zeros((1, 480, 672, 3), np.uint8),
        image_sizes=np.array([[480, 672]]),
        scale_factors=np.ones((1, 2)),
        indices=np.zeros(1, int),
        boxes=boxes[None].astype(np.float64),
        labels=np.zeros((1, 2), int),
        box_mask=np.ones((1, 2), bool),
    )
    experiment = Config(name="t")
    strides = experiment.detector.strides
    grids = tuple((-(-480 // s), -(-672 // s)) for s in strides)
    locations = assigner_locations(grids, strides, experiment.detector.assigner)
    targets = jax.device_get(assign_targets(batch, locations, strides, experiment.detector.assigner))
    ours = SimpleNamespace(targets=targets, levels=[np.zeros((1, *grid, 1)) for grid in grids])
    valid = targets.valid[0]

    def found(assigned):
        np.savez(tmp_path / "x.npz", **{"a/assign/img0_gt_inds": assigned[valid] + 1})
        return _other_ties(Reference(tmp_path / "x.npz"), "a", batch, ours, experiment)

    box_index = targets.box_index[0]
    assert found(box_index) is None
    other = algorithm_1(boxes, -np.arange(len(valid)), locations, valid)
    assert (other != box_index).any()
    ties = found(other)
    np.testing.assert_array_equal(ties.box_index[0], other)
    assert ties.boxes >= 1
    wrong = box_index.copy()
    wrong[np.flatnonzero(box_index < 0)[0]] = 1
    assert found(wrong) is None


def test_losses_can_be_those_of_a_given_assignment(small_detector):
    rng = np.random.default_rng(0)
    detector = override(small_detector, {"assigner.topk": 9})
    grids = tuple((-(-96 // s), -(-96 // s)) for s in detector.strides)
    outputs = HeadOutputs(
        *(tuple(rng.normal(size=(1, *grid, channels)) for grid in grids) for channels in (3, 20)), ()
    )
    batch = Batch(
        images=np.zeros((1, 96, 96, 3), np.uint8),
        image_sizes=np.array([[96, 96]]),
        scale_factors=np.ones((1, 2)),
        indices=np.zeros(1, int),
        boxes=np.array([[[0.0, 0, 96, 96]]]),
        labels=np.zeros((1, 1), int),
        box_mask=np.ones((1, 1), bool),
    )
    locations = assigner_locations(grids, detector.strides, detector.assigner)
    ours = assign_targets(batch, locations, detector.strides, detector.assigner)
    same = detection_losses(outputs, batch, detector, targets=targets_of(ours.box_index, ours.valid, batch))
    expected = detection_losses(outputs, batch, detector)
    jax.tree.map(np.testing.assert_array_equal, same, expected)
    other = np.array(ours.box_index[0])
    other[np.flatnonzero(other == 0)[0]] = -1
    found = detection_losses(outputs, batch, detector, targets=targets_of(other[None], ours.valid, batch))
    assert float(sum(found["loss_bbox"])) != float(sum(expected["loss_bbox"]))
