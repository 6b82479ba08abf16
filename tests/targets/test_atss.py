import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.targets.atss import assign_atss
from gfl_jax.targets.atss_dense import assign_atss_dense
from gfl_jax.targets.locations import make_locations, valid_grid_sizes

STRIDES = (8, 16, 32, 64, 128)
CANVAS = (160, 224)
GRIDS = tuple((-(-CANVAS[0] // s), -(-CANVAS[1] // s)) for s in STRIDES)  # 20 x 28 to 2 x 2
COUNT = 6  # boxes of each example: one shape, one compilation


def grids_of(height, width):
    return tuple((-(-height // s), -(-width // s)) for s in STRIDES)


@jax.jit
def assign_both(boxes, box_mask, image_size):
    valid = valid_grid_sizes(image_size[None], GRIDS, STRIDES)[0]
    arguments = (boxes, box_mask, valid, GRIDS, STRIDES)
    return assign_atss(*arguments), assign_atss_dense(*arguments)


def box_of(numbers):
    x, y, width, height = numbers
    return [x, y, x + abs(width), y + abs(height)]


coordinate = st.one_of(st.integers(-40, 240), st.floats(-40, 240, allow_subnormal=False))
side = st.one_of(
    st.integers(0, 200), st.floats(0.01, 200), st.floats(0.01, 2), st.floats(150, 2000)  # any, tiny, huge
)  # fmt: skip
box = st.tuples(coordinate, coordinate, side, side).map(box_of)
at_border = st.tuples(
    st.sampled_from([0, CANVAS[1] - 8]), st.sampled_from([0, CANVAS[0] - 8]), st.just(8), st.just(8)
).map(box_of)
boxes = st.lists(st.one_of(box, at_border), min_size=1, max_size=COUNT).map(
    lambda drawn: np.array((drawn * COUNT)[:COUNT])  # too few are repeated: duplicates
)
image_size = st.tuples(st.integers(1, CANVAS[0]), st.integers(1, CANVAS[1])).map(np.array)


@settings(max_examples=300)
@given(boxes, hnp.arrays(bool, COUNT), image_size)
@example(np.zeros((COUNT, 4)), np.zeros(COUNT, bool), np.array([160, 224]))
@example(np.tile([20.0, 20.0, 90.0, 60.0], (COUNT, 1)), np.ones(COUNT, bool), np.array([160, 224]))
@example(np.tile([20.0, 20.0, 90.0, 60.0], (COUNT, 1)), np.ones(COUNT, bool), np.array([1, 1]))
def test_the_window_finds_what_the_whole_matrix_does(boxes, box_mask, image_size):
    """In float64, where a candidate's distance or overlap hardly ever equals a limit but for rounding."""
    with jax.enable_x64(True):
        window, dense = assign_both(boxes, box_mask, image_size)
    np.testing.assert_array_equal(window, dense)
    assert set(np.asarray(window)) <= {-1, *np.flatnonzero(box_mask)}


@pytest.fixture(scope="module")
def crowd():
    """Forty boxes of all sizes on a canvas of 320 x 480, and what both ways assign in float32."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [440, 280], (40, 2))
    boxes = np.concatenate([corners, corners + np.exp(rng.uniform(1, 5, (40, 2)))], axis=1).astype(np.float32)
    grids = grids_of(320, 480)
    mask = jnp.ones(40, bool)
    window, dense = (
        jax.jit(lambda b, assign=assign: assign(b, mask, jnp.array(grids), grids, STRIDES))(boxes)
        for assign in (assign_atss, assign_atss_dense)
    )
    return boxes, make_locations(grids, STRIDES), np.asarray(window), np.asarray(dense)


def test_both_ways_are_equal_in_float32(crowd):
    _, _, found, dense = crowd
    np.testing.assert_array_equal(found, dense)
    assert np.sum(found >= 0) > 100


def test_positive_locations_lie_inside_their_boxes(crowd):
    boxes, locations, found, _ = crowd
    for point, index in zip(locations.points[found >= 0], found[found >= 0], strict=True):
        assert np.all(point > boxes[index, :2])
        assert np.all(point < boxes[index, 2:])


def test_a_box_has_at_most_topk_locations_on_a_level(crowd):
    boxes, locations, found, _ = crowd
    for level in range(len(STRIDES)):
        counts = np.bincount(found[(locations.levels == level) & (found >= 0)], minlength=len(boxes))
        assert np.max(counts) <= 9


def test_of_equal_overlaps_the_first_box_wins():
    boxes = np.tile([20.0, 20.0, 90.0, 60.0], (COUNT, 1))
    found, _ = assign_both(boxes, np.array([False, True, True, False, True, False]), np.array([160, 224]))
    assert set(np.asarray(found)) == {-1, 1}


def test_ties_differ_from_the_references_only_among_candidates_at_one_distance(reference_dir):
    """The boxes' centers lie halfway between locations, so that several are equally far from them.

    Where nine candidates are more than the nearer ones and fewer than those together with the
    equally far, the order in which a sort returns equal values decides: here the first locations
    are taken, in PyTorch any of them. The location may then go to another box, or to none.
    """
    figures = np.load(reference_dir / "units.npz")
    boxes, theirs = figures["atss_tie/gt"], figures["atss_tie/gt_inds"] - 1
    grids = grids_of(64, 64)
    mask = jnp.ones(2, bool)
    ours = np.asarray(jax.jit(lambda b: assign_atss(b, mask, jnp.array(grids), grids, STRIDES))(boxes))
    locations = make_locations(grids, STRIDES)

    def limit_cuts_a_tie(box, location):
        distances = np.linalg.norm(locations.points - (box[:2] + box[2:]) / 2, axis=1)
        of_level = distances[locations.levels == locations.levels[location]]
        nearer = np.sum(of_level < distances[location])
        return nearer < 9 < nearer + np.sum(of_level == distances[location])

    assert ours.shape == theirs.shape
    different = np.flatnonzero(ours != theirs)
    assert len(different) == 3
    for location in different:
        involved = {ours[location], theirs[location]} - {-1}
        assert any(limit_cuts_a_tie(boxes[index], location) for index in involved)
