import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.analysis.collect import CollectedDetections
from gfl_jax.analysis.distributions import (
    bin_pixels,
    check_indices,
    choose,
    distribution_table,
    entropy,
    probability_table,
    second_peak,
)
from gfl_jax.errors import UserError

SHARP, FLAT, BROAD, TWO = [0, 1, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.5, 0, 0, 0.5]


def detections_with(sides, scores):
    """Detections at (100, 50) with these distributions of the left side; the other sides are sharp."""
    count = len(sides)
    probabilities = np.tile(np.array(SHARP, np.float32), (count, 4, 1))
    probabilities[:, 0] = sides
    return CollectedDetections(
        images=np.zeros(count, int),
        boxes=np.tile([80.0, 40, 110, 70], (count, 1)),
        scores=np.array(scores),
        quality=np.array(scores),
        iou=np.full(count, 0.5),
        points=np.tile([100.0, 50.0], (count, 1)),
        strides=np.tile([8.0, 4.0], (count, 1)),
        probabilities=probabilities,
    )


@pytest.mark.parametrize(("p", "bits"), [(SHARP, 0), (FLAT, 2), (TWO, 1), ([0.5, 0.25, 0.25, 0], 1.5)])
def test_entropy(p, bits):
    assert entropy(np.array(p, np.float32)) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("p", "height"),
    [
        (SHARP, 0),
        (FLAT, 0),
        ([0.1, 0.2, 0.3, 0.4], 0),
        (TWO, 0.5),
        ([0.4, 0.1, 0.5, 0], 0.3),  # left of the highest peak
        ([0.5, 0.1, 0.4, 0], 0.3),  # right of it
        ([0.2, 0.1, 0.4, 0.05, 0.25], 0.2),  # heights above each peak's own valley
    ],
)
def test_the_height_of_the_second_peak(p, height):
    assert second_peak(np.array(p)) == pytest.approx(height)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_the_second_peak_against_loops(p):
    highest = int(np.argmax(p))
    heights = [p[j] - min(p[min(j, highest) : max(j, highest) + 1]) for j in range(len(p))]
    assert second_peak(np.array(p)) == pytest.approx(max(heights))


def test_choose():
    detections = detections_with([TWO, BROAD, SHARP, FLAT, TWO, SHARP], [0.9, 0.8, 0.7, 0.6, 0.45, 0.44])
    chosen = {name: indices.tolist() for name, indices in choose(detections, each=1).items()}
    assert chosen == {"sharpest": [2], "flattest": [3], "two-peaked": [0]}
    chosen = {name: indices.tolist() for name, indices in choose(detections, each=3).items()}
    assert chosen == {
        "sharpest": [2, 0, 1],
        "flattest": [3, 4],
        "two-peaked": [],
    }  # detection 5 is not confident


def test_choose_without_detections():
    chosen = choose(detections_with(np.zeros((0, 4)), []))
    assert [len(indices) for indices in chosen.values()] == [0, 0, 0]


def test_bin_pixels():
    pixels = bin_pixels(detections_with([FLAT], [0.5]), 0, np.array([0, 0.5, 1]))
    np.testing.assert_array_equal(pixels, [[100, 96, 92], [50, 48, 46], [100, 104, 108], [50, 52, 54]])


def test_an_index_out_of_range():
    check_indices([0, 2], 3)
    for index in (3, -1):
        with pytest.raises(UserError, match=f"--boxes={index}: there are 3 detections, numbered from 0"):
            check_indices([0, index], 3)


def test_tables():
    detections = detections_with([FLAT, TWO], [0.5, 0.4])
    groups = {"flattest": np.array([0]), "two-peaked": np.array([1])}
    shown = distribution_table("run", detections, groups)
    assert shown.rows == [
        ("flattest", 0, 0.5, 0.5, 2.0, 0.0, 0.0, 0.0),
        ("two-peaked", 1, 0.4, 0.5, 1.0, 0.0, 0.0, 0.0),
    ]
    rows = probability_table(detections, groups, np.arange(4.0)).rows
    assert len(rows) == 2 * 4 * 4
    assert rows[3] == ("flattest", 0, "left", 3.0, 76.0, 0.25)
    assert rows[-3] == ("two-peaked", 1, "bottom", 1.0, 54.0, 1.0)
