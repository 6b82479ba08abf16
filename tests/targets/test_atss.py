import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.targets.atss import assign_atss
from gfl_jax.targets.locations import make_locations, valid_grid_sizes
from gfl_jax.verification.atss_dense import assign_atss_dense

STRIDES = (8, 16, 32, 64, 128)
CANVASES = (
    (160, 224),
    (32, 640),
)  # the second is a strip: its single-row levels need nine candidates in a row
COUNT = 12  # boxes of each example: one shape, one compilation for each canvas


def grids_of(height, width):
    return tuple((-(-height // s), -(-width // s)) for s in STRIDES)


@functools.partial(jax.jit, static_argnums=3)
def assign_both(boxes, box_mask, image_size, canvas):
    grids = grids_of(*canvas)
    valid = valid_grid_sizes(image_size[None], grids, STRIDES)[0]
    arguments = (boxes, box_mask, valid, grids, STRIDES)
    return assign_atss(*arguments), assign_atss_dense(*arguments)


def numbers(low, high):
    return st.one_of(st.integers(low, high), st.floats(low, high, allow_subnormal=False))


@st.composite
def scenes(draw):
    """Boxes, their mask, the size of the image, and the canvas.

    Some boxes are drawn one by one, one occurs twice, and the others are random.
    """
    height, width = canvas = draw(st.sampled_from(CANVASES))
    side = st.one_of(numbers(0, 200), st.floats(0.01, 2), st.floats(150, 2000))  # any, tiny, huge
    drawn = draw(
        st.lists(st.tuples(numbers(-40, width + 40), numbers(-40, height + 40), side, side), max_size=5)
    )
    drawn += drawn[:1] + [(width - 8, height - 8, 8, 8)]  # up to the borders
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rest = COUNT - len(drawn)
    corners, sides = rng.uniform(-20, (width, height), (rest, 2)), np.exp(rng.uniform(1, 6, (rest, 2)))
    boxes = np.concatenate([np.array(drawn, float), np.concatenate([corners, sides], axis=1)])
    boxes[:, 2:] += boxes[:, :2]
    image_size = draw(st.tuples(st.integers(1, height), st.integers(1, width)))
    return boxes, draw(hnp.arrays(bool, COUNT)), np.array(image_size), canvas


def same(box):
    return np.tile(np.array(box, float), (COUNT, 1))


@settings(max_examples=300)
@given(scenes())
@example((same([0, 0, 0, 0]), np.zeros(COUNT, bool), np.array([160, 224]), CANVASES[0]))
@example((same([20, 20, 90, 60]), np.ones(COUNT, bool), np.array([160, 224]), CANVASES[0]))
@example((same([20, 20, 90, 60]), np.ones(COUNT, bool), np.array([1, 1]), CANVASES[0]))
def test_the_window_gives_the_same_result_as_the_whole_matrix(scene):
    """In float64 distances and overlaps hardly ever differ from a limit only by rounding."""
    with jax.enable_x64(True):
        window, dense = assign_both(*scene)
    np.testing.assert_array_equal(window, dense)
    assert set(np.asarray(window)) <= {-1, *np.flatnonzero(scene[1])}


@pytest.fixture(scope="module")
def crowd():
    """Forty boxes of all sizes on a canvas of 320 x 480, and the results of both methods in float32."""
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


def test_both_methods_are_equal_in_float32(crowd):
    _, _, found, dense = crowd
    np.testing.assert_array_equal(found, dense)
    assert np.sum(found >= 0) > 100


def test_both_methods_are_equal_with_locations_in_the_middle_of_their_cells(crowd):
    boxes, _, at_corners, _ = crowd
    grids = grids_of(320, 480)
    rest = (jnp.ones(40, bool), jnp.array(grids), grids, STRIDES)
    found, dense = (
        np.asarray(jax.jit(lambda b, assign=assign: assign(b, *rest, offset=0.5))(boxes))
        for assign in (assign_atss, assign_atss_dense)
    )
    np.testing.assert_array_equal(found, dense)
    locations = make_locations(grids, STRIDES, 0.5)
    inside = [locations.points[found == i] for i in range(40)]
    assert all(
        np.all((box[:2] < points) & (points < box[2:])) for box, points in zip(boxes, inside, strict=True)
    )
    assert np.any(found != at_corners)


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


def test_the_first_of_boxes_with_equal_overlaps_wins():
    mask = np.isin(np.arange(COUNT), [1, 2, 4])
    found, _ = assign_both(same([20, 20, 90, 60]), mask, np.array([160, 224]), CANVASES[0])
    assert set(np.asarray(found)) == {-1, 1}


def test_results_differ_from_the_reference_only_in_ties_of_distance(reference_dir):
    """The centers of the boxes lie halfway between locations, so several locations are equally far from them.

    If the limit of nine candidates falls among equally far locations, the order of equal values in a sort
    decides: the first locations are selected here, and any of them in PyTorch. Such a location may then go
    to another box, or to none.
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
