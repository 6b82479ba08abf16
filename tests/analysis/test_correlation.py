import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.analysis.collect import Collected, CollectedDetections
from gfl_jax.analysis.correlation import correlation_table, pearson


def test_pearson_by_hand():
    # The deviations are (-1, 0, 1) and (-1, 1, 0): dot product over the product of the lengths is 1 / 2.
    assert pearson(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(0.5)


@given(st.lists(st.integers(-100, 100), min_size=2, max_size=20, unique=True), st.floats(0.1, 10))
def test_pearson_of_a_line_is_one(values, slope):
    x = np.array(values, float)
    assert pearson(x, slope * x + 3) == pytest.approx(1)
    assert pearson(x, 3 - slope * x) == pytest.approx(-1)


@pytest.mark.parametrize(
    "pair", [([0.5, 0.5], [0.1, 0.9]), ([0.1, 0.9], [0.5, 0.5]), ([0.1], [0.2]), ([], [])]
)
def test_pearson_is_nan_if_a_value_does_not_vary(pair):
    assert np.isnan(pearson(*map(np.array, pair)))


def test_the_table_has_rows_for_positives_and_for_detections():
    detections = CollectedDetections(*[np.zeros(0)] * 8)._replace(
        quality=np.array([1.0, 2, 3]), iou=np.array([1.0, 3, 2])
    )
    collected = Collected(
        quality=np.array([0.1, 0.4]),
        labels={"IoU": np.array([0.9, 0.2]), "centerness": np.zeros(2)},
        best={},
        sizes=np.zeros(1),
        detections=detections,
    )
    table = correlation_table({"run": ("iou", collected)})
    assert [row[:4] for row in table.rows] == [
        ("run", "IoU branch", "positives", 2),
        ("run", "IoU branch", "detections", 3),
    ]
    assert [row[4] for row in table.rows] == pytest.approx([-1, 0.5])
    assert "GFL 0.78, ATSS 0.72" in table.caption
