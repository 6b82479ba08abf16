"""Assignment by IoU with anchors, compared with loops over all anchors and boxes."""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.targets.locations import anchor_shapes, make_locations
from gfl_jax.targets.max_iou import assign_max_iou

STRIDES = (16, 32)
GRIDS = ((4, 5), (2, 3))
SHAPES = anchor_shapes(scale=2.0, octave_parts=3, ratios=(0.5, 1.0, 2.0))
LOCATIONS = make_locations(GRIDS, STRIDES, shapes=SHAPES)
ANCHORS = LOCATIONS.anchors
COUNT = 4  # boxes of each example: one shape, one compilation


@functools.partial(jax.jit, static_argnums=(3, 4))
def assign_jitted(boxes, box_mask, valid, positive_iou, negative_iou):
    return assign_max_iou(boxes, box_mask, valid, LOCATIONS, positive_iou, negative_iou)


def assign(boxes, box_mask, valid, positive_iou=0.5, negative_iou=0.4):
    """Assigns in float64, where overlaps hardly ever differ from a limit or each other only by rounding."""
    with jax.enable_x64(True):
        return jax.device_get(assign_jitted(boxes, box_mask, valid, positive_iou, negative_iou))


def overlap(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def assign_one_by_one(boxes, box_mask, valid, positive_iou, negative_iou):
    """The assignment as in mmdetection's MaxIoUAssigner: thresholds, then the best anchors of each box."""
    overlaps = [[overlap(anchor, box) for box in boxes] for anchor in ANCHORS.astype(float)]
    real = [i for i in range(len(boxes)) if box_mask[i]]
    assigned, takes_part = [], []
    for n in range(len(ANCHORS)):
        best = max((overlaps[n][i] for i in real), default=-1)
        first = next((i for i in real if overlaps[n][i] == best), -1)
        assigned.append(first if valid[n] and best >= positive_iou else -1)
        takes_part.append(bool(valid[n]) and (best >= positive_iou or best < negative_iou))
    for i in real:
        best = max((overlaps[n][i] for n in range(len(ANCHORS)) if valid[n]), default=0)
        for n in range(len(ANCHORS)):
            if valid[n] and best > 0 and overlaps[n][i] == best:
                assigned[n], takes_part[n] = i, True
    return np.array(assigned), np.array(takes_part)


def test_a_location_has_nine_anchors_of_three_sizes_and_ratios():
    """The first location is at (0, 0); areas are (2 x 16)^2 times 1, 2^(2/3) and 2^(4/3)."""
    sides = ANCHORS[:9, 2:] - ANCHORS[:9, :2]
    np.testing.assert_allclose(ANCHORS[:9, 2:] + ANCHORS[:9, :2], 0, atol=1e-5)
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], [0.5] * 3 + [1] * 3 + [2] * 3, rtol=1e-6)
    np.testing.assert_allclose(np.prod(sides, axis=1), np.tile(1024 * 4 ** (np.arange(3) / 3), 3), rtol=1e-6)
    assert len(ANCHORS) == 9 * (20 + 6)
    np.testing.assert_array_equal(LOCATIONS.points[9:18], np.tile([16, 0], (9, 1)))


numbers = hnp.arrays(np.float64, (COUNT, 4), elements=st.floats(0, 60))
boxes_strategy = numbers.map(lambda n: np.concatenate([n[:, :2], n[:, :2] + n[:, 2:] + 1.5], axis=1))
valid_strategy = st.integers(1, 5).map(lambda columns: LOCATIONS.points[:, 0] < 16 * columns)
thresholds = st.sampled_from([(0.5, 0.4), (0.6, 0.2)])


@settings(max_examples=60)
@given(boxes_strategy, hnp.arrays(bool, COUNT), valid_strategy, thresholds)
def test_the_assignment_equals_loops_over_anchors_and_boxes(boxes, box_mask, valid, limits):
    assigned, takes_part = assign(boxes, box_mask, valid, *limits)
    expected, expected_part = assign_one_by_one(boxes, box_mask, valid, *limits)
    np.testing.assert_array_equal(assigned, expected)
    np.testing.assert_array_equal(takes_part, expected_part)


def padded(*boxes):
    rest = [ANCHORS[0]] * (COUNT - len(boxes))
    return np.array([*boxes, *rest], float), np.arange(COUNT) < len(boxes)


EVERYWHERE = np.ones(len(ANCHORS), bool)


def test_a_box_below_all_thresholds_still_gets_its_best_anchors():
    """The box has 4 x 4 pixels and the center of the anchors at (32, 32). The smallest anchors are best."""
    boxes, mask = padded([30, 30, 34, 34])
    assigned, takes_part = assign(boxes, mask, EVERYWHERE)
    best = np.flatnonzero(assigned == 0)
    areas = np.prod(ANCHORS[:, 2:] - ANCHORS[:, :2], axis=1)
    assert len(best) > 0
    np.testing.assert_allclose(areas[best], 1024, rtol=1e-5)  # the smallest anchors, all equally good
    assert overlap(ANCHORS[best[0]], boxes[0]) < 0.4
    assert np.all(takes_part)


def test_anchors_between_the_thresholds_are_ignored():
    """The box is an anchor. The IoU of its neighbors is a third, too large for background."""
    square = 9 * (5 + 1) + 3  # the smallest square at (16, 16)
    boxes, mask = padded(ANCHORS[square])
    assigned, takes_part = assign(boxes, mask, EVERYWHERE, 0.99, 0.25)
    overlaps = np.array([overlap(anchor, boxes[0]) for anchor in ANCHORS.astype(float)])
    np.testing.assert_array_equal(np.flatnonzero(assigned == 0), [square])
    np.testing.assert_array_equal(takes_part, (overlaps < 0.25) | (np.arange(len(ANCHORS)) == square))
    assert not takes_part[square + 9]


def test_anchors_beside_the_image_are_ignored_and_padding_gets_no_anchors():
    valid = LOCATIONS.points[:, 0] < 32
    boxes, mask = padded([0, 0, 70, 60])
    assigned, takes_part = assign(boxes, mask, valid)
    assert set(assigned) == {-1, 0}
    assert not np.any(takes_part & ~valid)
    assert np.all(assigned[~valid] == -1)
    assigned, takes_part = assign(*padded(), valid)
    assert np.all(assigned == -1)
    np.testing.assert_array_equal(takes_part, valid)


def test_the_last_of_two_equal_boxes_gets_the_best_anchor_and_the_first_one_the_others():
    """The result is the same in the reference, where boxes get their best anchors one after the other."""
    box = ANCHORS[9 * (5 + 1) + 3] + np.array([1, 1, 0, 0])
    assigned, _ = assign(*padded(box, box), EVERYWHERE)
    best = 9 * (5 + 1) + 3
    assert assigned[best] == 1
    assert set(assigned) == {-1, 0, 1}
    assert np.sum(assigned == 1) == 1
