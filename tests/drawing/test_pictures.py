import os
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax import files
from gfl_jax.drawing import detections as boxes_module
from gfl_jax.drawing import draw_boxes, draw_comparison, plot_losses, save_png
from gfl_jax.drawing.curves import _running_mean, _series
from gfl_jax.drawing.detections import class_color, score_color, visible
from gfl_jax.drawing.side_by_side import MISSED, RIGHT, WRONG, match
from gfl_jax.errors import UserError

GRAY = np.full((700, 900, 3), 128, np.uint8)
BOX = np.array([[200.0, 300.0, 500.0, 600.0]])


def grid(side: float, count: int) -> np.ndarray:
    """Boxes that cover the gray image from its upper left corner."""
    columns = int(880 // (side + 5))
    corners = np.array([[5 + i % columns * (side + 5), 5 + i // columns * (side + 5)] for i in range(count)])
    return np.concatenate([corners, corners + side], axis=1)


def number_of(drawing: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((drawing == color).all(axis=-1).sum())


# draw_boxes


def test_outlines_have_the_color_of_their_class_and_the_image_is_not_changed() -> None:
    image = GRAY.copy()
    drawing = draw_boxes(image, BOX, np.array([4]))
    assert (image == GRAY).all()
    assert (drawing.dtype, drawing.shape) == (np.uint8, GRAY.shape)
    for y, x in ((450, 200), (450, 500), (300, 450), (600, 350)):
        assert tuple(drawing[y, x]) == class_color(4)
    assert (drawing[320:580, 220:480] == 128).all()
    assert (drawing[620:] == 128).all()


def test_without_boxes_the_drawing_equals_the_image() -> None:
    assert (draw_boxes(GRAY, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)) == GRAY).all()


@pytest.mark.parametrize(
    ("size", "factor"), [((640, 10), 1), ((400, 300), 2), ((256, 256), 3), ((40, 640), 1)]
)
def test_small_images_are_enlarged(size: tuple[int, int], factor: int) -> None:
    image = np.zeros((*size, 3), np.uint8)
    drawing = draw_boxes(image, np.array([[2.0, 2.0, 8.0, 20.0]]))
    assert drawing.shape == (size[0] * factor, size[1] * factor, 3)
    assert tuple(drawing[10 * factor, 2 * factor]) == class_color(0)


def test_classes_have_distinct_colors() -> None:
    colors = np.array([class_color(label) for label in range(80)], int)
    distance = np.abs(colors[:, None] - colors).sum(-1) + 1000 * np.eye(80, dtype=int)
    assert distance.min() >= 15
    for first in range(70):  # ten consecutive classes differ clearly
        assert distance[first : first + 10, first : first + 10].min() >= 45


def test_text_is_above_the_box_on_the_color_of_its_class() -> None:
    with_text = draw_boxes(GRAY, BOX, np.array([2]), np.array([0.87]), names=["a", "b", "tree"])
    without = draw_boxes(GRAY, BOX)
    tag = with_text[270:297, 200:300]
    assert number_of(tag, class_color(2)) > 200
    assert (without[270:297, 200:300] == 128).all()
    assert len(np.unique(tag.reshape(-1, 3), axis=0)) > 5  # letters with smooth edges


def test_text_stays_in_the_image_and_hides_no_other_text() -> None:
    corner = np.array([[0.0, 0.0, 150.0, 150.0]])
    twice = draw_boxes(GRAY, np.repeat(corner, 2, axis=0), np.array([0, 1]), names=["first", "second"])
    once = draw_boxes(GRAY, corner, np.array([0]), names=["first"])
    assert (twice[5:20, 5:40] == once[5:20, 5:40]).all()  # inside the top edge: text of the first box
    assert number_of(twice[150:180], class_color(1)) > 200  # below the box: text of the second box


@pytest.mark.parametrize("boxes", [grid(12, 50), grid(60, 101)], ids=["tiny", "many"])
def test_crowded_boxes_are_colored_by_score_without_text(
    boxes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_text(*args: object) -> None:
        raise AssertionError("text beside crowded boxes")

    monkeypatch.setattr(boxes_module, "paint_tags", no_text)
    scores = np.linspace(0.9, 0.1, len(boxes))
    drawing = draw_boxes(GRAY, boxes, np.zeros(len(boxes), int), scores, ["tree"])
    for (x1, y1, *_), score in zip(boxes.round().astype(int), scores, strict=True):
        assert tuple(drawing[y1, x1 + 6]) == score_color(score)
    assert number_of(drawing[-40:, :300], (20, 20, 20)) > 1000  # the legend of the colors
    draw_boxes(GRAY, boxes, np.zeros(len(boxes), int))


def test_low_scores_are_left_out_and_high_scores_are_on_top() -> None:
    overlapping = np.array([[200.0, 300, 500, 600], [200, 300, 500, 600], [10, 310, 90, 390]])
    drawing = draw_boxes(GRAY, overlapping, np.array([0, 1, 2]), np.array([0.4, 0.6, 0.2]), min_score=0.3)
    assert tuple(drawing[500, 200]) == class_color(1)
    assert number_of(drawing, class_color(2)) == 0
    assert visible(overlapping, np.array([0.4, 0.6, 0.2]), 0.3).tolist() == [1, 0]


def test_boxes_outside_the_image_and_not_finite_boxes_are_no_error() -> None:
    strange = np.array([[-50, -50, 2000, 2000], [-1e30, 5, 1e30, 9], [np.nan, 0, 1, 1], [0, 0, np.inf, 1]])
    draw_boxes(GRAY, strange, np.arange(4), np.ones(4))
    draw_comparison(GRAY, strange, strange, np.ones(4))


# draw_comparison


def test_each_box_is_matched_once() -> None:
    truth = np.array([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    found = np.array([[0.0, 1, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    matches = match(truth, found)
    assert matches.found.tolist() == [True, False]
    assert matches.right.tolist() == [True, False, False]


def test_classes_must_agree() -> None:
    box = np.array([[0.0, 0, 10, 10]])
    assert match(box, box, np.array([1]), np.array([1])).right.all()
    assert not match(box, box, np.array([1]), np.array([0])).right.any()


def test_a_detection_gets_the_next_best_box_if_the_best_is_taken() -> None:
    truth = np.array([[0.0, 0, 10, 10], [2, 0, 12, 10]])
    found = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert match(truth, found).right.all()


CORNER = st.integers(0, 20)
SOME_BOXES = st.lists(st.tuples(CORNER, CORNER, st.integers(1, 9), st.integers(1, 9)), max_size=8)


@settings(deadline=None)
@given(SOME_BOXES, SOME_BOXES)
def test_matches_are_pairs_and_none_is_left_over(
    truth: list[tuple[int, ...]], found: list[tuple[int, ...]]
) -> None:
    a, b = (np.array(x, float).reshape(-1, 4) for x in (truth, found))
    a[:, 2:] += a[:, :2]
    b[:, 2:] += b[:, :2]
    matches = match(a, b)
    assert matches.found.sum() == matches.right.sum()
    assert match(a, a).found.all()
    low = np.maximum(a[:, None, :2], b[:, :2])
    overlap = np.clip(np.minimum(a[:, None, 2:], b[:, 2:]) - low, 0, None).prod(-1)
    total = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1) - overlap
    possible = overlap / total >= 0.5
    assert not (matches.found & ~possible.any(1)).any()
    assert not (matches.right & ~possible.any(0)).any()
    assert not possible[~matches.found][:, ~matches.right].any()  # no possible match is left over


def test_comparison_shows_found_and_missed_beside_right_and_wrong() -> None:
    truth = np.array([[100.0, 100, 200, 200], [400, 100, 500, 200]])
    found = np.array([[100.0, 100, 200, 205], [600, 400, 700, 500], [300, 500, 400, 600]])
    drawing = draw_comparison(GRAY, truth, found, np.array([0.9, 0.8, 0.1]))
    top, gap = drawing.shape[0] - 700, drawing.shape[1] - 2 * 900
    assert 0 < top < 70
    assert 0 < gap < 20
    left, right = drawing[top:, :900], drawing[top:, 900 + gap :]
    assert tuple(left[150, 100]) == tuple(right[150, 100]) == RIGHT
    assert tuple(left[150, 400]) == MISSED
    assert tuple(right[450, 600]) == WRONG
    assert (right[480:620, 280:420] == 128).all()  # the score is below the minimum
    header = drawing[:top]
    assert all(number_of(header, color) > 50 for color in (RIGHT, MISSED, WRONG))


def test_wrong_detections_are_on_top() -> None:
    drawing = draw_comparison(GRAY, BOX, np.repeat(BOX, 2, axis=0), np.array([0.9, 0.8]))
    assert tuple(drawing[-700 + 450, -900 + 200]) == WRONG


def test_panels_of_wide_images_are_one_above_the_other() -> None:
    assert draw_comparison(GRAY[:300], BOX, BOX, np.ones(1)).shape[1] == 900


def test_comparison_without_boxes() -> None:
    none = np.zeros((0, 4))
    drawing = draw_comparison(GRAY, none, none, np.zeros(0), np.zeros(0, int), np.zeros(0, int), ["tree"])
    assert (drawing[-700:, :900] == GRAY).all()


def test_comparison_names_classes() -> None:
    labels = np.array([0])
    plain = draw_comparison(GRAY, BOX, BOX, np.ones(1))
    named = draw_comparison(GRAY, BOX, BOX, np.ones(1), labels, labels, ["tree"])
    assert (plain[:, :900] != named[:, :900]).any()
    assert (plain[:, 910:] != named[:, 910:]).any()


# Files


def test_png_holds_the_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / "new" / "image.png"
    save_png(path, image)
    assert (cv2.imread(str(path))[..., ::-1] == image).all()
    assert os.listdir(path.parent) == ["image.png"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    save_png(path, GRAY)
    before = path.read_bytes()

    def out_of_space(file: IO[bytes]) -> None:
        file.truncate(10)
        raise OSError("No space left on device")

    monkeypatch.setattr(files, "sync_file", out_of_space)
    with pytest.raises(UserError, match=r"image\.png: cannot be written \(No space"):
        save_png(path, GRAY[:50])
    assert path.read_bytes() == before


# plot_losses

ROWS = [
    {"step": s, "loss/total": 2.0 / (1 + s), "loss/loss_dfl": 0.5, "learning_rate": 0.01} for s in range(9)
]


def test_figure_has_a_panel_for_each_kind_of_curve(tmp_path: Path) -> None:
    heights = []
    for rows in (
        [{"step": 1, "loss": 1.0}],
        ROWS,
        [*ROWS, {"step": 8, "eval/AP": 0.1, "eval/AP50": 0.3, "note": "text"}],
    ):
        plot_losses(rows, tmp_path / "losses.png", title="A run")
        heights.append(cv2.imread(str(tmp_path / "losses.png")).shape[0])
    assert heights == sorted(set(heights))


def test_curves_are_drawn_in_their_colors(tmp_path: Path) -> None:
    plot_losses(ROWS, tmp_path / "losses.png")
    figure = cv2.imread(str(tmp_path / "losses.png"))[..., ::-1]
    assert number_of(figure, (0x00, 0x72, 0xB2)) > 500
    assert number_of(figure, (0xD5, 0x5E, 0x00)) > 500
    assert number_of(figure, (0x00, 0x9E, 0x73)) == 0


def test_figures_can_be_vector_graphics(tmp_path: Path) -> None:
    plot_losses(ROWS, tmp_path / "losses.svg")
    assert "<svg" in (tmp_path / "losses.svg").read_text()


def test_series_are_sorted_and_finite() -> None:
    rows = [
        {"step": 2, "loss": 3.0},
        {"step": 1, "loss": 4.0},
        {"step": 3, "loss": float("nan")},
        {"loss": 1.0},
    ]
    (steps, values) = _series([*rows, {"step": 5, "loss": None}], lambda key: key == "loss")["loss"]
    assert (steps.tolist(), values.tolist()) == ([1, 2], [4, 3])


def test_running_mean_uses_fewer_values_at_the_ends() -> None:
    np.testing.assert_allclose(_running_mean(np.array([1.0, 2, 6, 7]), 3), [1.5, 3, 5, 6.5])


def test_long_runs_are_smoothed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0, 1, 400)
    plot_losses([{"step": i, "loss": x} for i, x in enumerate(noise)], tmp_path / "losses.png")
    figure = cv2.imread(str(tmp_path / "losses.png"))[..., ::-1]
    rows = np.flatnonzero((figure == (0x00, 0x72, 0xB2)).all(-1).any(1))
    assert np.ptp(rows) < 0.6 * figure.shape[0]  # only the running mean has the full color


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row of the metrics has a step and a loss"):
        plot_losses([{"step": 1, "AP": 0.5}], tmp_path / "losses.png")
    assert os.listdir(tmp_path) == []
