import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax import config
from gfl_jax.inference.decode import RUN, decode, top_of_many, top_pairs
from gfl_jax.structures import HeadOutputs

GRIDS = ((4, 6), (2, 3), (1, 2))  # of a canvas of 32 x 48
top = jax.jit(top_pairs, static_argnums=1)


@pytest.mark.parametrize("count", [1, 7, 20, 60, 100])
def test_the_best_pairs_equal_those_of_a_full_sort(count):
    scores = np.random.default_rng(count).permutation(2 * 20 * 3).reshape(2, 20, 3).astype(np.float32)
    values, locations, classes = top(scores, count)
    assert values.shape == (2, min(count, 60))
    for i in range(2):
        best = np.argsort(-scores[i].reshape(-1))[:count]
        np.testing.assert_array_equal(values[i], scores[i].reshape(-1)[best])
        np.testing.assert_array_equal(locations[i], best // 3)
        np.testing.assert_array_equal(classes[i], best % 3)


@given(hnp.arrays(np.float32, (1, 6, 2), elements=st.integers(0, 4)))
def test_each_of_several_equal_scores_is_selected_once(scores):
    values, locations, classes = top(scores, 5)
    np.testing.assert_array_equal(values[0], np.sort(scores.reshape(-1))[::-1][:5])
    np.testing.assert_array_equal(scores[0][locations[0], classes[0]], values[0])
    assert len(set(zip(locations[0].tolist(), classes[0].tolist(), strict=True))) == 5


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("n", [7, 8 * RUN * 4, 8 * RUN * 4 + 5, 3000])
def test_top_of_many_equals_top_k_even_for_equal_values(n, levels):
    values = jnp.asarray(np.random.default_rng(n).integers(0, levels, (3, n)) / levels, jnp.float32)
    values = values.at[2].set(0.25)  # like a class without any object
    for found, expected in zip(top_of_many(values, 8), jax.lax.top_k(values, min(n, 8)), strict=True):
        np.testing.assert_array_equal(found, expected)


def outputs_with(detector, objects):
    """Head outputs with scores near 0 except for `objects`, whose distances are whole strides.

    Args:
      detector: the config of the detector.
      objects: {(image, level, row, column, label): (logit, (left, top, right, bottom))}.
    """
    bins = detector.box.reg_max + 1
    class_logits = [np.full((2, *grid, detector.num_classes), -50, np.float32) for grid in GRIDS]
    box = [np.zeros((2, *grid, 4, bins), np.float32) for grid in GRIDS]
    for (image, level, row, column, label), (logit, distances) in objects.items():
        class_logits[level][image, row, column, label] = logit
        box[level][image, row, column, range(4), list(distances)] = 1000
    return HeadOutputs(tuple(class_logits), tuple(x.reshape(*x.shape[:3], -1) for x in box), ())


@pytest.fixture(scope="module")
def candidates(small_detector):
    """A function (outputs, image sizes) -> candidates of each image with scores above 0.5, best first."""
    settings = config.Inference(score_threshold=0.5, candidates_per_level=3)
    compiled = jax.jit(lambda outputs, sizes: decode(outputs, sizes, small_detector, settings))

    def run(outputs, image_sizes=((32, 48), (32, 48))):
        found = jax.device_get(compiled(outputs, jnp.array(image_sizes)))
        assert found.boxes.shape == (2, 3 + 3 + 3, 4)
        images = []
        for i in range(2):
            mask = found.mask[i]
            entries = zip(found.boxes[i][mask].tolist(), found.labels[i][mask].tolist(), strict=True)
            images.append([(*box, label) for box, label in entries])
        return images

    return run


def test_distances_are_in_strides_around_the_location(candidates, small_detector):
    objects = {
        (0, 0, 2, 3, 1): (1.0, (1, 2, 0, 1)),  # at (24, 16), stride 8
        (0, 1, 1, 1, 2): (2.0, (0, 1, 1, 0)),  # at (16, 16), stride 16
        (1, 2, 0, 1, 0): (3.0, (1, 0, 0, 1)),  # at (32, 0), stride 32
    }
    found = candidates(outputs_with(small_detector, objects))
    assert found == [[(16, 0, 24, 24, 1), (16, 0, 32, 16, 2)], [(0, 0, 32, 32, 0)]]


def test_boxes_are_clipped_to_the_image_not_the_canvas(candidates, small_detector):
    objects = {(i, 0, 1, 1, 0): (1.0, (4, 4, 4, 4)) for i in range(2)}  # at (8, 8): -24 to 40
    found = candidates(outputs_with(small_detector, objects), image_sizes=((32, 48), (20, 30)))
    assert found == [[(0, 0, 40, 32, 0)], [(0, 0, 30, 20, 0)]]


def test_boxes_without_width_or_height_after_clipping_are_dropped(candidates, small_detector):
    """The locations (40, 8) and (8, 24) are beside images of 20 x 30, and their boxes end at the border."""
    beside = {(0, 0, 1, 5, 0): (1.0, (1, 1, 0, 1)), (0, 0, 3, 1, 0): (1.0, (1, 0, 1, 0))}
    inside = {(1, 0, 1, 5, 0): (1.0, (2, 1, 0, 1)), (1, 0, 1, 1, 0): (0.5, (0, 0, 0, 1))}
    found = candidates(outputs_with(small_detector, beside | inside), image_sizes=((20, 30), (20, 30)))
    assert found == [[], [(24, 0, 30, 16, 0)]]


def test_a_score_must_be_above_the_threshold(candidates, small_detector):
    """A logit of 0 gives a score of exactly 0.5, the threshold."""
    objects = {(0, 0, 0, 0, 0): (0.0, (0, 0, 1, 1)), (1, 0, 0, 0, 0): (1e-3, (0, 0, 1, 1))}
    assert candidates(outputs_with(small_detector, objects)) == [[], [(0, 0, 8, 8, 0)]]


def test_a_location_may_have_several_classes_and_a_level_a_limited_number_of_candidates(
    candidates, small_detector
):
    objects = {(0, 0, 1, 1, label): (1.0 + label, (0, 0, 1, 1)) for label in range(3)}
    objects |= {
        (1, 0, 1, column, label): (1.0 + column, (0, 0, 1, 1)) for column in range(4) for label in (0, 1)
    }
    first, second = candidates(outputs_with(small_detector, objects))
    assert first == [(8, 8, 16, 16, 2), (8, 8, 16, 16, 1), (8, 8, 16, 16, 0)]
    assert second == [(24, 8, 32, 16, 0), (24, 8, 32, 16, 1), (16, 8, 24, 16, 0)]
