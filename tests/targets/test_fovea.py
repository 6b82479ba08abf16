"""The assignment of FoveaBox, compared with loops over all boxes and locations."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.targets.fovea import assign_fovea
from gfl_jax.targets.locations import make_locations

STRIDES = (8, 16, 32)
GRIDS = ((8, 12), (4, 6), (2, 3))
LOCATIONS = make_locations(GRIDS, STRIDES, offset=0.5)
RANGES = ((1, 24), (12, 48), (24, 500))
COUNT = 6  # boxes of each example: one shape, one compilation


@jax.jit
def assign(boxes, box_mask):
    return assign_fovea(boxes, box_mask, LOCATIONS, RANGES, 0.5)


def assign_one_by_one(boxes, box_mask):
    """The assignment as in mmdetection: each box fills a range of rows and columns, the smallest box last."""
    found = []
    order = sorted(range(len(boxes)), key=lambda i: -np.prod(boxes[i, 2:] - boxes[i, :2]))
    for (rows, columns), stride, (low, high) in zip(GRIDS, STRIDES, RANGES, strict=True):
        index = np.full((rows, columns), -1)
        for i in order:
            x1, y1, x2, y2 = boxes[i].tolist()
            if not box_mask[i] or not low**2 <= (x2 - x1) * (y2 - y1) <= high**2:
                continue
            left, right = x1 + 0.25 * (x2 - x1), x1 + 0.75 * (x2 - x1)
            top, bottom = y1 + 0.25 * (y2 - y1), y1 + 0.75 * (y2 - y1)
            first, last = np.ceil(left / stride - 0.5), np.floor(right / stride - 0.5)
            upper, lower = np.ceil(top / stride - 0.5), np.floor(bottom / stride - 0.5)
            for row in range(max(int(upper), 0), min(int(lower), rows - 1) + 1):
                for column in range(max(int(first), 0), min(int(last), columns - 1) + 1):
                    index[row, column] = i
        found.append(index.reshape(-1))
    return np.concatenate(found)


numbers = hnp.arrays(np.int64, (COUNT, 4), elements=st.integers(0, 22))
# Multiples of four pixels, so some locations lie exactly on borders and bounds. All areas differ, because
# mmdetection defines no order of equal ones.
boxes_strategy = numbers.map(
    lambda n: (4 * np.concatenate([n[:, :2] - 3, n[:, :2] - 2 + n[:, 2:]], axis=1)).astype(np.float32)
).filter(lambda boxes: len({float(x) for x in np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)}) == COUNT)


@settings(max_examples=80)
@given(boxes_strategy, hnp.arrays(bool, COUNT))
def test_the_assignment_equals_loops_over_boxes_and_locations(boxes, box_mask):
    np.testing.assert_array_equal(assign(boxes, box_mask), assign_one_by_one(boxes, box_mask))


def test_a_box_is_learned_on_all_levels_for_its_size():
    """The box has 32 pixels and the center (32, 32), a corner of cells on both of its levels."""
    boxes = np.tile(np.array([[16.0, 16.0, 48.0, 48.0]], np.float32), (COUNT, 1))
    found = np.asarray(assign(boxes, np.arange(COUNT) < 1))
    on_level = [np.sum(found[LOCATIONS.levels == level] == 0) for level in range(3)]
    # Locations within 8 pixels of the center: (24, 24) to (40, 40) on the second level, none on the third.
    assert on_level == [0, 4, 0]
    assert set(found) == {-1, 0}
