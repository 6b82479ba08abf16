import dataclasses

import jax
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.axes.assigner import assign_targets, assigner_locations
from gfl_jax.structures import Batch
from gfl_jax.targets.locations import make_locations

BOXES = [[[8, 8, 40, 40], [57, 20, 86, 55]], [[4, 2, 28, 30], [0, 0, 0, 0]]]


@pytest.fixture(scope="module")
def targets(small_detector):
    """Two images on a canvas of 64 x 96; the second one has 30 x 32 pixels and one box."""
    batch = Batch(
        images=np.zeros((2, 64, 96, 3), np.uint8),
        image_sizes=np.array([[64, 96], [30, 32]]),
        scale_factors=np.ones((2, 2), np.float32),
        indices=np.arange(2),
        boxes=np.array(BOXES, np.float32),
        labels=np.array([[2, 1], [1, 0]]),
        box_mask=np.array([[True, True], [True, False]]),
    )
    locations = make_locations(((8, 12), (4, 6), (2, 3)), small_detector.strides)
    strides, assigner = small_detector.strides, small_detector.assigner
    return locations, jax.jit(lambda: assign_targets(batch, locations, strides, assigner))()


def test_positions_of_locations_and_anchors(small_detector):
    grids, strides = ((2, 3), (1, 2), (1, 1)), small_detector.strides
    atss, fcos = small_detector.assigner, config.Assigner(kind="fcos")
    middle = dataclasses.replace(atss, cell_centers=True)
    firsts = [
        assigner_locations(grids, strides, assigner).points[[0, 6]] for assigner in (atss, middle, fcos)
    ]
    assert [first.tolist() for first in firsts] == [[[0, 0], [0, 0]], [[4, 4], [8, 8]], [[4, 4], [8, 8]]]
    half = atss.anchor_scale * 16 / 2
    anchor = assigner_locations(grids, strides, middle).anchors[6]
    np.testing.assert_array_equal(anchor, [8 - half, 8 - half, 8 + half, 8 + half])


def test_positive_locations_have_the_label_and_the_corners_of_their_box(targets):
    _, found = targets
    labels = [[2, 1], [1, 0]]
    for image in range(2):
        positive = np.asarray(found.positive[image])
        index = np.asarray(found.box_index[image])[positive]
        assert positive.any()
        np.testing.assert_array_equal(found.labels[image][positive], np.array(labels[image])[index])
        np.testing.assert_array_equal(found.boxes[image][positive], np.array(BOXES[image])[index])
    assert set(np.asarray(found.box_index[0])) == {-1, 0, 1}
    assert set(np.asarray(found.box_index[1])) == {-1, 0}


def test_all_other_locations_are_background(targets):
    _, found = targets
    np.testing.assert_array_equal(found.box_index >= 0, found.positive)
    background = ~np.asarray(found.positive)
    assert np.all(found.labels[background] == -1)
    assert np.all(found.boxes[background] == 0)


def test_only_locations_on_the_image_are_valid(targets):
    locations, found = targets
    assert np.all(found.valid[0])
    np.testing.assert_array_equal(found.valid[1], np.all(locations.points < 32, axis=1))
    assert not np.any(found.positive & ~found.valid)
