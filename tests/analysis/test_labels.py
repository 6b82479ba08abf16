import numpy as np

from gfl_jax.analysis.collect import Collected, best_labels
from gfl_jax.analysis.labels import label_rows, label_tables, shares_below


def test_best_labels():
    index = np.array([2, 0, 2, 0])
    labels = np.array([0.25, 0.5, 0.75, 0.125], np.float32)
    np.testing.assert_array_equal(best_labels(index, labels, 4), [0.5, 0, 0.75, 0])
    np.testing.assert_array_equal(best_labels(index[:0], labels[:0], 2), [0, 0])


def test_shares_below():
    for dtype in (np.float32, np.float64):
        values = np.array([0.1, 0.05, 0.35, 0.95], dtype)
        np.testing.assert_array_equal(shares_below(values, (0.1, 0.2, 0.4, 0.9)), [0.25, 0.5, 0.75, 0.75])
    assert np.isnan(shares_below(np.zeros(0))).all()


def test_tables_of_a_run_with_and_one_without_a_network():
    alone = Collected(
        quality=None,
        labels={"centerness": np.array([0.15, 0.85])},
        best={"centerness": np.array([0.85, 0.0])},
        sizes=np.array([10.0, 20.0]),
        detections=None,
    )
    both = alone._replace(
        labels=alone.labels | {"IoU": np.array([0.45, 0.95])},
        best=alone.best | {"IoU": np.array([0.95, 0.0])},
    )
    first, second = label_tables({"a": alone, "b": both})
    assert first.headings == ("<", "centerness, positives", "centerness, best")
    assert first.rows[0] == ("0.1", 0.0, 0.5)
    assert first.rows[1] == ("0.2", 0.5, 0.5)
    assert second.headings[1:] == ("IoU, positives", "centerness, positives", "IoU, best", "centerness, best")
    assert second.rows[8] == ("0.9", 0.5, 1.0, 0.5, 1.0)
    rows = label_rows({"a": alone, "b": both}).rows
    assert len(rows) == (2 + 4) * 9
    assert ("b", "IoU", "positives", 2, 0.5, 0.5) in rows
