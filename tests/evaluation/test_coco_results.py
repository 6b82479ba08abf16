import json
import os
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax import files
from gfl_jax.errors import UserError
from gfl_jax.evaluation.results import read_results, to_coco_results, write_results

RESULT = {"image_id": 7, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
COORDINATE = st.floats(0, 4096, width=16)  # with few digits, x1 + (x2 - x1) is exactly x2


def test_one_entry_for_each_box_in_order() -> None:
    boxes = np.array([[1, 2, 4, 8], [0.5, 0.25, 10, 20]], np.float32)
    results = to_coco_results(boxes, np.array([0.75, 0.5], np.float32), np.array([1, 0]), 42, [18, 90])
    assert results == [
        {"image_id": 42, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.75},
        {"image_id": 42, "category_id": 18, "bbox": [0.5, 0.25, 9.5, 19.75], "score": 0.5},
    ]


def test_no_boxes_give_no_entries() -> None:
    assert to_coco_results(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), 1, [1]) == []


@given(
    st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE), max_size=4),
    st.floats(0, 1, width=32),
)
def test_numbers_survive_json_exactly(corners: list[tuple[float, ...]], score: float) -> None:
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    scores = np.full(len(boxes), score, np.float32)
    results = to_coco_results(boxes, scores, np.zeros(len(boxes), np.int32), np.int64(5), np.array([2]))
    back = json.loads(json.dumps(results))
    assert back == results
    for row, (x1, y1, x2, y2) in zip(back, boxes.tolist(), strict=True):
        x, y, width, height = row["bbox"]
        assert (x, y, x + width, y + height) == (x1, y1, x2, y2)
        assert row["score"] == score


def test_written_results_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "results.json"
    write_results(path, [RESULT])
    assert read_results(path) == [RESULT]
    assert os.listdir(path.parent) == ["results.json"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_results(path, [RESULT])

    def out_of_space(file: IO[bytes]) -> None:
        file.truncate(10)
        raise OSError("No space left on device")

    monkeypatch.setattr(files, "sync_file", out_of_space)
    with pytest.raises(UserError, match="No space"):
        write_results(path, [RESULT, RESULT])
    assert read_results(path) == [RESULT]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not valid JSON"),
        ("{}", "must be a list of COCO results, not dict"),
        ("[1]", r"\[0\]: must be an object, not int"),
        (json.dumps([RESULT, {"image_id": 7}]), r"\[1\]: has no key 'category_id'"),
        (json.dumps([RESULT | {"bbox": [1, 2, 3]}]), r"\[0\].bbox=\[1, 2, 3\]: must be four numbers"),
        (json.dumps([RESULT | {"bbox": [1, 2, 3, float("nan")]}]), r"\[0\].bbox=.*must be four numbers"),
        (json.dumps([RESULT | {"score": "high"}]), r"\[0\].score='high': must be a number"),
        (json.dumps([RESULT | {"image_id": 7.0}]), r"\[0\].image_id=7.0: must be a whole number or a string"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"broken\.json.*" + message):
        read_results(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.json: cannot be read"):
        read_results(tmp_path / "nothing.json")
