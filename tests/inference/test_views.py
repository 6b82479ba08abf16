import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.config import Inference
from gfl_jax.errors import UserError
from gfl_jax.inference.views import PLAIN, View, view_canvas, view_sizes, views_of


def test_views_of_a_config():
    assert views_of(Inference()) == (PLAIN,) == (View(1.0, False),)
    assert views_of(Inference(test_flip=True)) == (View(1.0, False), View(1.0, True))
    both = views_of(Inference(test_scales=(0.5, 2.0), test_flip=True))
    assert both == (View(0.5, False), View(0.5, True), View(2.0, False), View(2.0, True))


def test_no_scales_is_an_error():
    with pytest.raises(UserError, match=r"^config\.inference\.test_scales=\(\): must have a scale"):
        views_of(Inference(test_scales=()))


def test_sizes_are_scaled_and_rounded_half_up():
    sizes = view_sizes(np.array([[800, 1333], [5, 1]]), 0.5)
    np.testing.assert_array_equal(sizes, [[400, 667], [3, 1]])
    np.testing.assert_array_equal(view_sizes(np.array([[1, 1]]), 0.2), [[1, 1]])


@pytest.mark.parametrize(
    ("scale", "canvas"), [(1.0, (800, 1344)), (0.5, (416, 672)), (1.1, (896, 1504)), (0.001, (32, 32))]
)
def test_the_canvas_is_scaled_and_stays_a_multiple_of_32(scale, canvas):
    assert view_canvas((800, 1344), scale) == canvas


def test_rounding_errors_do_not_enlarge_a_canvas():
    assert 800 * 1.12 > 896
    assert view_canvas((800, 800), 1.12) == (896, 896)


@given(st.integers(1, 999), st.integers(0, 999), st.floats(0.01, 3.0))
def test_an_image_that_fits_a_canvas_fits_the_scaled_one(side, room, scale):
    scaled = view_sizes(np.array([[side, side]]), scale)[0]
    assert (scaled <= view_canvas((side + room, side + room), scale)).all()
