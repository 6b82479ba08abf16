import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.config import Crops
from gfl_jax.data.annotations import build_annotations
from gfl_jax.data.crops import jitter_colors, max_boxes_of_crops, paint_stripes, random_crop, rotate

BOXES = np.array(
    [[8, 8, 40, 40], [60, 12, 100, 30], [120, 60, 152, 124], [20, 80, 68, 112], [96, 96, 118, 118]],
    np.float32,
)


def image_of_boxes(height=140, width=160):
    """A black image; the inside of box i has the gray level 40 * (i + 1)."""
    image = np.zeros((height, width, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(BOXES.astype(int)):
        image[y1:y2, x1:x2] = 40 * (i + 1)
    return image


def extent(mask):
    """The box around the pixels of a mask."""
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_boxes_stay_on_their_pixels(seed, quarter_turns, mirror):
    crops = Crops(size=96, scale=(1.0, 2.0), quarter_turns=quarter_turns, color_jitter=0.0, min_visible=0.6)
    for i in range(len(BOXES)):  # the same crop of images that show one box each
        image = np.where(image_of_boxes() == 40 * (i + 1), 255, 0).astype(np.uint8)
        rng = np.random.default_rng(seed)
        view, boxes, keep, factors = random_crop(rng, image, BOXES, crops, mirror)
        assert view.shape == (96, 96, 3)
        assert factors[0] == factors[1]
        if keep[i]:
            np.testing.assert_allclose(boxes[i], extent(view[:, :, 0] >= 128), atol=0.51)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_rotations_are_exact(quarters, mirror):
    image, boxes = rotate(image_of_boxes(), BOXES, quarters, mirror)
    expected = np.rot90(image_of_boxes(), quarters)
    np.testing.assert_array_equal(image, expected[:, ::-1] if mirror else expected)
    for i, box in enumerate(boxes):
        np.testing.assert_array_equal(box, extent(image[:, :, 0] == 40 * (i + 1)))


def test_boxes_mostly_outside_are_dropped_and_others_clipped():
    image, box = np.zeros((64, 64, 3), np.uint8), np.array([[0, 0, 64, 64]], np.float32)
    rng = np.random.default_rng(0)
    plain = {"size": 32, "scale": (1.0, 1.0), "quarter_turns": False, "color_jitter": 0.0}
    _, boxes, keep, _ = random_crop(rng, image, box, Crops(**plain, min_visible=0.25), False)
    assert keep.tolist() == [True]
    np.testing.assert_array_equal(boxes, [[0, 0, 32, 32]])
    _, _, keep, _ = random_crop(rng, image, box, Crops(**plain, min_visible=0.26), False)
    assert keep.tolist() == [False]


def test_boxes_outside_are_dropped_even_if_min_visible_is_zero():
    image, box = np.zeros((64, 640, 3), np.uint8), np.array([[0, 0, 2, 2]], np.float32)
    crops = Crops(size=32, scale=(1.0, 1.0), min_visible=0.0)
    kept = [random_crop(np.random.default_rng(i), image, box, crops, False)[2][0] for i in range(20)]
    assert not all(kept)


def test_a_small_image_is_shown_whole():
    crops = Crops(size=256, scale=(1.0, 1.0), quarter_turns=False, color_jitter=0.0)
    view, boxes, keep, _ = random_crop(np.random.default_rng(0), image_of_boxes(), BOXES, crops, False)
    np.testing.assert_array_equal(view, image_of_boxes())
    np.testing.assert_array_equal(boxes, BOXES)
    assert keep.all()


def test_scales_are_log_uniform():
    image = np.zeros((400, 400, 3), np.uint8)
    crops = Crops(size=64, scale=(0.5, 2.0))
    rng = np.random.default_rng(0)
    scales = [random_crop(rng, image, BOXES, crops, False)[3][0] for _ in range(400)]
    assert 0.49 < min(scales) < 0.55
    assert 1.8 < max(scales) < 2.05
    assert 0.4 < np.mean(np.array(scales) < 1) < 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_stripes_are_behind_the_boxes(seed):
    image = image_of_boxes()
    painted = paint_stripes(np.random.default_rng(seed), image, BOXES)
    changed = (painted != image).any(axis=2)
    assert changed.any()
    for x1, y1, x2, y2 in BOXES.astype(int):
        assert not changed[y1:y2, x1:x2].any()
    assert len(np.unique(painted[changed], axis=0)) == 1


def test_color_jitter_is_mild_and_varies():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    first, second = (jitter_colors(np.random.default_rng(i), image, 0.2) for i in (1, 2))
    assert (first != second).any()
    for jittered in (first, second):
        assert jittered.dtype == np.uint8
        assert 0 < np.abs(jittered.astype(int) - image).mean() < 0.5 * 128
    np.testing.assert_allclose(jitter_colors(np.random.default_rng(1), image, 0.0), image, atol=1)


def annotations_of(boxes, size):
    count = len(boxes)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    columns = np.zeros(count, int), xywh, np.zeros(count, int), np.zeros(count, bool), np.ones(count)
    return build_annotations("test", np.array([size]), np.array([1]), ("a",), *columns)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_no_crop_has_more_boxes_than_the_bound(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 180, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(2, 20, (60, 2))], axis=1).astype(np.float32)
    crops = Crops(size=48, scale=(0.75, 1.3), min_visible=0.01)
    bound = max_boxes_of_crops(annotations_of(boxes, (200, 200)), crops)
    image = np.zeros((200, 200, 3), np.uint8)
    for _ in range(20):
        assert random_crop(rng, image, boxes, crops, False)[2].sum() <= bound
    assert bound < 60


def test_the_bound_is_tight_if_boxes_coincide():
    boxes = np.array([[10, 10, 20, 20]] * 7 + [[180, 180, 190, 190]] * 3, np.float32)
    assert max_boxes_of_crops(annotations_of(boxes, (200, 200)), Crops(size=64, scale=(1.0, 1.0))) == 7
