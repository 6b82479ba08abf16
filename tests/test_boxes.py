import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax import boxes as geometry

COUNT = 8  # boxes in each example; one shape needs only one compilation

iou = jax.jit(geometry.iou)
giou = jax.jit(geometry.giou)


def boxes_of(elements, least_side, unit):
    """COUNT boxes with coordinates that are multiples of `unit`, so float32 arithmetic is exact."""

    def build(numbers):
        sides = np.abs(numbers[:, 2:]) + least_side
        return (np.concatenate([numbers[:, :2], numbers[:, :2] + sides], axis=1) * unit).astype(np.float32)

    return hnp.arrays(np.int64, (COUNT, 4), elements=elements).map(build)


quarter_boxes = boxes_of(st.integers(-400, 400), 1, 0.25)  # pixels: -100 to 200
small_integer_boxes = boxes_of(st.integers(-6, 6), 0, 1.0)  # some have no area


@given(quarter_boxes, quarter_boxes)
def test_iou_is_symmetric_and_in_0_to_1(a, b):
    found = np.asarray(iou(a, b))
    np.testing.assert_array_equal(found, iou(b, a))
    assert np.all(found >= 0)
    assert np.all(found <= 1)


@given(quarter_boxes)
def test_a_box_overlaps_itself_fully(a):
    np.testing.assert_array_equal(iou(a, a), 1)
    np.testing.assert_array_equal(giou(a, a), 1)


@given(quarter_boxes, quarter_boxes, st.integers(-2000, 2000), st.integers(-2000, 2000))
def test_overlaps_do_not_change_with_a_shift(a, b, dx, dy):
    shift = np.array([dx, dy, dx, dy], np.float32) / 4
    np.testing.assert_array_equal(iou(a + shift, b + shift), iou(a, b))
    np.testing.assert_array_equal(giou(a + shift, b + shift), giou(a, b))


@given(quarter_boxes, quarter_boxes)
def test_giou_is_at_most_iou_and_above_minus_1(a, b):
    found = np.asarray(giou(a, b))
    assert np.all(found <= iou(a, b))
    assert np.all(found > -1)


def pixels_of(box):
    """A mask of the grid pixels, from (-8, -8), that lie in a box with integer coordinates."""
    y, x = np.mgrid[-8:24, -8:24]
    return (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


@given(small_integer_boxes, small_integer_boxes)
def test_overlaps_equal_counted_pixels(a, b):
    found_iou, found_giou = iou(a, b), giou(a, b)
    for i in range(COUNT):
        common = np.sum(pixels_of(a[i]) & pixels_of(b[i]))
        union = np.sum(pixels_of(a[i]) | pixels_of(b[i]))
        hull = np.concatenate([np.minimum(a[i, :2], b[i, :2]), np.maximum(a[i, 2:], b[i, 2:])])
        enclosing = np.sum(pixels_of(hull))
        expected = common / union if union else 0
        assert np.isclose(found_iou[i], expected, atol=1e-6)
        if union:
            assert np.isclose(found_giou[i], expected - (enclosing - union) / enclosing, atol=1e-6)
    assert np.all(np.isfinite(found_giou))


def test_all_pairs_by_broadcasting():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-50, 50, (5, 2))
    a = np.concatenate([corners, corners + rng.uniform(1, 60, (5, 2))], axis=1).astype(np.float32)
    pairs = geometry.iou(a[:, None], a[None])
    assert pairs.shape == (5, 5)
    for i in range(5):
        for j in range(5):
            np.testing.assert_allclose(pairs[i, j], geometry.iou(a[i], a[j]), rtol=1e-6)


@given(quarter_boxes, hnp.arrays(np.int64, (COUNT, 2), elements=st.integers(-400, 400)))
def test_distances_round_trip(boxes, numbers):
    points = (numbers / 4).astype(np.float32)
    distances = geometry.boxes_to_distances(points, boxes)
    np.testing.assert_array_equal(geometry.distances_to_boxes(points, distances), boxes)
    inside = np.all((points > boxes[:, :2]) & (points < boxes[:, 2:]), axis=1)
    np.testing.assert_array_equal(np.min(distances, axis=1) > 0, inside)


def test_distances_are_left_top_right_bottom():
    found = geometry.boxes_to_distances(jnp.array([10.0, 20.0]), jnp.array([7.0, 15.0, 30.0, 21.0]))
    np.testing.assert_array_equal(found, [3, 5, 20, 1])


@given(boxes_of(st.integers(-400, 400), 8, 0.25), boxes_of(st.integers(-400, 400), 8, 0.25))
def test_deltas_round_trip(boxes, anchors):
    """Sides are 2 to 102 pixels, so no ratio exceeds 62.5."""
    deltas = geometry.boxes_to_deltas(anchors, boxes)
    np.testing.assert_allclose(geometry.deltas_to_boxes(anchors, deltas), boxes, atol=1e-3)


def test_deltas_are_shifts_and_log_ratios():
    anchor, box = jnp.array([0.0, 0.0, 10.0, 20.0]), jnp.array([5.0, 0.0, 25.0, 20.0])
    found = geometry.boxes_to_deltas(anchor, box, stds=(1.0, 1.0, 1.0, 1.0))
    np.testing.assert_allclose(found, [1.0, 0.0, np.log(2), 0.0], rtol=1e-6)
    found = geometry.boxes_to_deltas(anchor, box)
    np.testing.assert_allclose(found, [10.0, 0.0, 5 * np.log(2), 0.0], rtol=1e-6)


def test_deltas_enlarge_at_most_62_5_times():
    anchor = jnp.array([-1.0, -2.0, 1.0, 2.0])
    found = geometry.deltas_to_boxes(anchor, jnp.array([0.0, 0.0, 1e6, -1e6]))
    np.testing.assert_allclose(found[2:] - found[:2], [2 * 62.5, 4 / 62.5], rtol=1e-5)


@given(quarter_boxes, st.integers(1, 200), st.integers(1, 200))
def test_boxes_are_clipped_to_the_image(boxes, height, width):
    clipped = np.asarray(geometry.clip_boxes(boxes, jnp.array([height, width])))
    np.testing.assert_array_equal(clipped[:, ::2], np.clip(boxes[:, ::2], 0, width))
    np.testing.assert_array_equal(clipped[:, 1::2], np.clip(boxes[:, 1::2], 0, height))


def test_clip_accepts_a_size_for_each_image():
    boxes = jnp.array([[[-5.0, -5.0, 50.0, 50.0]], [[1.0, 2.0, 3.0, 4.0]]])
    found = geometry.clip_boxes(boxes, jnp.array([[10, 20], [3, 2]])[:, None])
    np.testing.assert_array_equal(found, [[[0, 0, 20, 10]], [[1, 2, 2, 3]]])


def test_center_and_area():
    boxes = jnp.array([[-4.0, 2.0, 6.0, 4.0], [3.0, 3.0, 3.0, 9.0]])
    np.testing.assert_array_equal(geometry.center(boxes), [[1, 3], [3, 6]])
    np.testing.assert_array_equal(geometry.area(boxes), [20, 0])
