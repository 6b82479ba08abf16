import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gfl_jax.errors import UserError
from gfl_jax.evaluation.coco_truth import load_ground_truth

BOX = {"image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 20]}


def content(**changes: Any) -> dict[str, Any]:
    whole = {"images": [{"id": 1}], "categories": [{"id": 5, "name": "tree"}], "annotations": [BOX]}
    return copy.deepcopy(whole | changes)


def test_missing_area_and_crowd_flag_are_filled_in() -> None:
    (annotation,) = load_ground_truth(content())["annotations"]
    assert annotation == BOX | {"id": 1, "area": 200, "iscrowd": 0}


def test_given_area_and_crowd_flag_are_kept() -> None:
    (annotation,) = load_ground_truth(content(annotations=[BOX | {"area": 120.5, "iscrowd": 1}]))[
        "annotations"
    ]
    assert (annotation["area"], annotation["iscrowd"]) == (120.5, 1)


def test_annotations_are_numbered_from_1_in_a_copy() -> None:
    given = content(annotations=[BOX | {"id": 0}, BOX | {"id": 0}])
    before = copy.deepcopy(given)
    assert [x["id"] for x in load_ground_truth(given)["annotations"]] == [1, 2]
    assert given == before


def test_boxes_that_are_not_finite_are_left_out() -> None:
    bad = BOX | {"bbox": [0, 0, float("nan"), 1]}
    assert len(load_ground_truth(content(annotations=[bad, BOX]))["annotations"]) == 1


def test_files_and_dictionaries_give_the_same_ground_truth(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content()))
    assert load_ground_truth(path) == load_ground_truth(str(path)) == load_ground_truth(content())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "has no list 'images'"),
        ({"annotations": {}}, "has no list 'annotations'"),
        ({"categories": [{"name": "tree"}]}, r"categories\[0\]: has no key 'id'"),
        ({"annotations": [BOX, {"image_id": 1}]}, r"annotations\[1\]: has no key 'category_id'"),
        ({"annotations": ["box"]}, r"annotations\[0\]: must be an object, not 'box'"),
        ({"images": [{"id": 1.5}]}, r"images\[0\].id=1.5: must be a whole number or a string"),
        ({"images": [{"id": 1}, {"id": 1}]}, r"images\[1\].id=1: occurs twice"),
        (
            {"annotations": [BOX | {"image_id": 2}]},
            r"annotations\[0\].image_id=2: is not among the images",
        ),
        ({"annotations": [BOX | {"category_id": 9}]}, r"category_id=9: is not among the categories"),
        ({"annotations": [BOX | {"bbox": [1, 2, None, 4]}]}, r"annotations\[0\].bbox=.*four numbers"),
        ({"annotations": [BOX | {"area": "big"}]}, r"annotations\[0\].area='big': must be a number"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content(**changes)))
    with pytest.raises(UserError, match=r"broken\.json.*" + message):
        load_ground_truth(path)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_file_without_annotations_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.json"):
        load_ground_truth(path)


def test_dictionaries_are_checked_too() -> None:
    with pytest.raises(UserError, match="ground truth: has no list 'annotations'"):
        load_ground_truth({"images": [], "categories": []})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.json: cannot be read"):
        load_ground_truth(tmp_path / "nothing.json")
