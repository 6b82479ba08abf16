"""The assignment of FCOS, compared with loops over all boxes and locations."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.boxes import centerness
from gfl_jax.targets.fcos import assign_fcos
from gfl_jax.targets.locations import make_locations

STRIDES = (8, 16, 32)
GRIDS = ((8, 12), (4, 6), (2, 3))
LOCATIONS = make_locations(GRIDS, STRIDES, offset=0.5)
BOUNDS = (16, 40)
COUNT = 6  # boxes of each example: one shape, one compilation


@functools.partial(jax.jit, static_argnums=2)
def assign(boxes, box_mask, center_radius):
    return assign_fcos(boxes, box_mask, LOCATIONS, BOUNDS, center_radius)


def assign_one_by_one(boxes, box_mask, center_radius):
    """The assignment as the paper describes it: level by level, row by row."""
    found = []
    for level, ((rows, columns), stride) in enumerate(zip(GRIDS, STRIDES, strict=True)):
        low, high = (0, *BOUNDS)[level], (*BOUNDS, float("inf"))[level]
        for row in range(rows):
            for column in range(columns):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                best, smallest = -1, float("inf")
                for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                    sides = (x - x1, y - y1, x2 - x, y2 - y)
                    positive = box_mask[i] and min(sides) > 0 and low <= max(sides) <= high
                    if center_radius is not None:
                        reach = center_radius * stride
                        off_center = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
                        positive = positive and off_center < reach
                    area = (x2 - x1) * (y2 - y1)
                    if positive and area < smallest:
                        best, smallest = i, area
                found.append(best)
    return np.array(found)


numbers = hnp.arrays(np.int64, (COUNT, 4), elements=st.integers(0, 90))
# Integers, so some locations lie exactly on borders and bounds, and some areas are equal.
boxes_strategy = numbers.map(
    lambda n: np.concatenate([n[:, :2] - 10, n[:, :2] - 10 + n[:, 2:]], axis=1).astype(np.float32)
)


@settings(max_examples=60)
@pytest.mark.parametrize("center_radius", [None, 1.5, 0.75])
@given(boxes_strategy, hnp.arrays(bool, COUNT))
def test_the_assignment_equals_loops_over_boxes_and_locations(center_radius, boxes, box_mask):
    found = assign(boxes, box_mask, center_radius)
    np.testing.assert_array_equal(found, assign_one_by_one(boxes, box_mask, center_radius))


def padded(*boxes):
    """Boxes, and padding boxes that would be the smallest ones everywhere."""
    rest = [[0.0, 0.0, 1.0, 1.0]] * (COUNT - len(boxes))
    return np.array([*boxes, *rest], np.float32), np.arange(COUNT) < len(boxes)


def positions(found, level):
    """(row, column) of the positive locations of a level."""
    rows, columns = GRIDS[level]
    here = np.asarray(found)[LOCATIONS.levels == level].reshape(rows, columns)
    return list(zip(*np.nonzero(here >= 0), strict=True))


def test_the_farthest_side_of_a_box_decides_its_level():
    """The box has 32 pixels and the center (20, 20). Only from its center is the farthest side 16 away."""
    found = assign(*padded([4, 4, 36, 36]), None)
    assert positions(found, 0) == [(2, 2)]  # (20, 20): all sides are 16 away, the bound
    assert positions(found, 1) == [(0, 0), (0, 1), (1, 0), (1, 1)]  # (8, 8) to (24, 24): 20 to 28 away
    assert positions(found, 2) == []  # (16, 16): 20 away
    assert positions(assign(*padded([0, 0, 96, 64]), None), 0) == []
    assert len(positions(assign(*padded([0, 0, 96, 64]), None), 2)) == 6


def test_center_sampling_keeps_locations_near_the_center():
    """Four cells meet at the center (48, 32). Their middles are half a stride away in x and y."""
    big = padded([0, 0, 96, 64])
    assert positions(assign(*big, 0.75), 2) == [(0, 1), (1, 1)]  # the middle column is at x = 48
    assert positions(assign(*big, 0.5), 2) == []  # half a stride away is not less than that
    assert len(positions(assign(*big, 1.5), 2)) == 6


def test_the_smallest_box_wins_and_the_first_of_equal_ones():
    large, small = [0, 0, 60, 60], [10, 10, 40, 40]
    found = np.asarray(assign(*padded(large, small), None))
    inside = np.all((LOCATIONS.points > 10) & (LOCATIONS.points < 40), axis=1) & (LOCATIONS.levels == 1)
    assert set(found[inside]) == {1}
    assert set(found) == {-1, 0, 1}
    np.testing.assert_array_equal(assign(*padded(small, small, large), None) == 1, False)


def test_without_boxes_everything_is_background():
    assert np.all(assign(*padded(), 1.5) == -1)


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([3, 5, 3, 5], 1),  # the middle
        ([1, 2, 4, 2], 0.5),
        ([1, 1, 4, 9], 1 / 6),
        ([0, 2, 4, 2], 0),  # on a side
        ([-1, 2, 4, 2], 0),  # outside of one side
        ([-1, -1, 4, 2], 0),  # outside of two sides
    ],
)
def test_centerness_by_hand(distances, expected):
    np.testing.assert_allclose(centerness(np.array(distances, np.float32)), expected, rtol=1e-6)
    np.testing.assert_allclose(centerness(100 * np.array(distances, np.float32)), expected, rtol=1e-6)
