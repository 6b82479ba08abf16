from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.data.transforms import flip_boxes, flip_image, resize_image, resized_sizes, scale_boxes

REFERENCE = Path(__file__).parents[1] / "data" / "reference" / "units_extra.npz"


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as stored:
        return {key: stored[key] for key in stored if key.startswith("resize")}


def test_resized_sizes_equal_the_reference(reference):
    cases = sorted({key.split("/")[0] for key in reference if key.endswith("/in_hw")})
    assert len(cases) == 14
    for case in cases:
        short_side = int(case.split("_")[1])
        size = resized_sizes(reference[f"{case}/in_hw"][None], short_side, 1333)[0]
        np.testing.assert_array_equal(size, reference[f"{case}/out_hw"], err_msg=case)


def test_resized_pixels_equal_the_reference(reference):
    image, expected = reference["resize_pixels/image"], reference["resize_pixels/to_1333x800"]
    size = tuple(resized_sizes(np.array([image.shape[:2]]), 800, 1333)[0].tolist())
    resized = resize_image(image, size)
    np.testing.assert_array_equal(resized[::37, ::41], expected)


def test_without_a_short_side_sizes_do_not_change():
    np.testing.assert_array_equal(resized_sizes(np.array([[3, 5000]]), None, 1333), [[3, 5000]])
    image = np.zeros((3, 5, 3), np.uint8)
    assert resize_image(image, (3, 5)) is image


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1333))
def test_resize_respects_both_limits(height, width, short_side):
    new = resized_sizes(np.array([[height, width]]), short_side, 1333)[0]
    assert new.max() <= 1333
    assert new.min() <= short_side
    assert new.max() == 1333 or new.min() == short_side


def test_boxes_scale_by_x_and_y_and_are_clipped():
    boxes = np.array([[1, 2, 3, 4], [5, 5, 10, 10]], np.float32)
    scaled = scale_boxes(boxes, np.array([2.0, 3.0]), (24, 18))
    np.testing.assert_array_equal(scaled, [[2, 6, 6, 12], [10, 15, 18, 24]])
    assert scaled.dtype == np.float32


def test_flip_moves_pixels_and_boxes_together():
    image = np.zeros((4, 10, 3), np.uint8)
    image[1:3, 2:5] = 200
    (x1, y1, x2, y2) = flip_boxes(np.array([[2, 1, 5, 3]], np.float32), 10)[0].astype(int)
    expected = np.zeros_like(image)
    expected[y1:y2, x1:x2] = 200
    np.testing.assert_array_equal(flip_image(image), expected)
