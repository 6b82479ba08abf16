import numpy as np
import pytest

from gfl_jax.errors import UserError
from gfl_jax.verification.reference import Reference, Row, relative_deviation


@pytest.fixture
def reference(tmp_path):
    whole = np.arange(60.0).reshape(3, 4, 5)
    np.savez(
        tmp_path / "values.npz",
        **{"a/small": np.array([1.0, -4.0]), "a/long": whole.reshape(-1)[::7], "a/none": np.zeros((0, 4))},
        **{"a/long@stride": 7, "a/long@shape": whole.shape, "ab": 1.0},
    )
    return Reference(tmp_path / "values.npz")


def test_deviation_is_relative_to_the_largest_magnitude(reference):
    assert reference.deviation("a/small", [1.0, -4.0]) == 0
    assert reference.deviation("a/small", [1.5, -4.0]) == pytest.approx(0.5 / 4)
    assert reference.deviation("a/none", np.zeros((0, 4))) == 0


def test_a_long_array_is_compared_at_every_nth_value(reference):
    whole = np.arange(60.0).reshape(3, 4, 5)
    assert reference.deviation("a/long", whole) == 0
    changed = whole.copy()
    changed[2, 3, 1] += 5.6  # position 56 of the flat array, a multiple of 7
    assert reference.deviation("a/long", changed) == pytest.approx(0.1)
    assert reference.deviation("a/long", whole.reshape(4, 3, 5)) == np.inf
    assert reference.deviation("a/long", whole.reshape(-1)[::7]) == np.inf


def test_keys_leave_out_stride_entries(reference):
    assert reference.keys("a/") == ["small", "long", "none"]
    assert "ab" in reference
    assert "b" not in reference


def test_a_missing_key(reference):
    with pytest.raises(UserError, match=r"values\.npz: has no entry 'cases'; is it a file of reference"):
        reference["cases"]
    with pytest.raises(UserError, match="has no entry 'nothing'"):
        reference.deviation("nothing", 1.0)


def test_a_missing_file_and_a_file_that_is_no_archive(tmp_path):
    with pytest.raises(UserError, match=r"--reference=nowhere\.npz: there is no such file"):
        Reference("nowhere.npz")
    text = tmp_path / "text.npz"
    text.write_text("no arrays")
    for path in (text, tmp_path):
        with pytest.raises(UserError, match=r": is not a readable \.npz file") as caught:
            Reference(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([0.5], [0.0], 0.5),
        ([], [], 0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([0.0, 1.0], [np.nan, 1.0], np.inf),
        ([np.inf], [1.0], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
        ([[1.0, 2.0]], [1.0, 2.0], np.inf),
        (1.0, [1.0], np.inf),
        ([True, False], [1, 0], 0),
    ],
)
def test_relative_deviation(ours, theirs, expected):
    assert relative_deviation(ours, theirs) == pytest.approx(expected)


def test_relative_deviation_on_a_given_scale():
    assert relative_deviation([1.0], [2.0], scale=10.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("deviation", "tolerance", "passed"),
    [(0.0, 0.0, True), (1e-7, 1e-6, True), (1e-6, 1e-6, True), (2e-6, 1e-6, False)]
    + [(np.inf, 1.0, False), (np.nan, 1.0, False)],
)
def test_a_row_passes_within_its_tolerance(deviation, tolerance, passed):
    assert Row("part", deviation, tolerance).passed is passed
