import json
import logging
import pickle

import cv2
import numpy as np
import pytest

from gfl_jax.data.as_coco import coco_ground_truth
from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.images import image_size
from gfl_jax.errors import UserError


@pytest.fixture
def small(tmp_path):
    """A folder with one 20 x 30 image, and the content of its annotation file."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30, 3), (10, 20, 30), np.uint8))
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def load(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return coco_json_source(path, tmp_path)


def test_labels_are_positions_and_missing_fields_are_filled(tmp_path, small):
    source = load(tmp_path, small)
    example = source.example(0)
    assert source.categories == ("cat", "dog")
    assert source.category_ids == (9, 3)
    assert example.labels.tolist() == [1]
    assert example.is_crowd.tolist() == [False]
    assert example.area.tolist() == [12.0]
    np.testing.assert_array_equal(example.boxes, [[1, 2, 4, 6]])
    np.testing.assert_array_equal(example.image[0, 0], [30, 20, 10])  # RGB
    assert (len(source), source.max_boxes, source.image_ids.tolist()) == (1, 1, [7])


def test_a_whole_coco_tree(coco_tree):
    source = coco_json_source(coco_tree / "annotations/instances_train2017.json", coco_tree / "train2017")
    data = json.loads((coco_tree / "annotations/instances_train2017.json").read_text())
    assert len(source.annotations.boxes) == len(data["annotations"])
    assert source.annotations.is_crowd.any()
    assert source.example(3).boxes.shape == (0, 4)
    per_image = [int((~source.example(i).is_crowd).sum()) for i in range(len(source))]
    assert source.max_boxes == max(per_image)
    for i in range(len(source)):
        image = source.example(i).image
        assert image.shape == (*source.sizes[i], 3)
        assert image.dtype == np.uint8
    gray = source.example(1).image
    assert (gray == gray[:, :, :1]).all()


def test_a_source_can_be_pickled(coco_tree):
    source = coco_json_source(coco_tree / "annotations/instances_train2017.json", coco_tree / "train2017")
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.example(2).image, source.example(2).image)


def test_coco_ground_truth_equals_the_file(coco_tree):
    path = coco_tree / "annotations/instances_train2017.json"
    original = json.loads(path.read_text())
    truth = coco_ground_truth(coco_json_source(path, coco_tree / "train2017"))
    assert truth["categories"] == original["categories"]
    assert truth["images"] == original["images"]
    assert [a["id"] for a in truth["annotations"]] == list(range(1, len(original["annotations"]) + 1))
    for found, expected in zip(truth["annotations"], original["annotations"], strict=True):
        for key in ("image_id", "category_id", "area", "iscrowd"):
            assert found[key] == expected[key]
        np.testing.assert_allclose(found["bbox"], expected["bbox"], atol=1e-4)
    json.dumps(truth)


def test_bad_boxes_are_dropped_counted_and_reported_once(tmp_path, small, caplog):
    nan = float("nan")
    boxes = [
        *([nan, 1, 5, 5], [1, 1, float("inf"), 5]),  # not finite
        *([1, 1, 0.5, 5], [1, 1, 5, 0], [1, 1, -5, 5]),  # too small
        *([30, 1, 5, 5], [-9, 1, 5, 5], [1, 50, 5, 5]),  # outside
        *([-2, 1, 5, 5], [25, 15, 10, 10]),  # partly outside
    ]
    small["annotations"] += [
        {"id": i, "image_id": 7, "category_id": 9, "bbox": box} for i, box in enumerate(boxes, start=2)
    ]
    small["annotations"].append({"id": 99, "image_id": 7, "category_id": 9, "bbox": [1, 1, 5, 5], "area": 0})
    with caplog.at_level(logging.WARNING):
        source = load(tmp_path, small)
    assert len(caplog.records) == 1
    assert "dropped 9 of 12 boxes: 2 not finite, 4 too small, 3 outside their image" in caplog.text
    np.testing.assert_array_equal(source.example(0).boxes, [[1, 2, 4, 6], [0, 1, 3, 6], [25, 15, 30, 20]])


def test_good_boxes_are_not_reported(tmp_path, small, caplog):
    load(tmp_path, small)
    assert not caplog.records


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images",), None, "has no list 'images'"),
        (("annotations",), {}, "has no list 'annotations'"),
        (("categories",), {}, "has no list 'categories'"),
        (("categories",), [], "the list 'categories' is empty"),
        (("images", 0, "height"), None, r"images\[0\]: has no key 'height'"),
        (("images", 0, "width"), "wide", r"images\[0\]\.width='wide': must be a whole number of pixels"),
        (("images", 0, "file_name"), "b.png", r"b\.png: is missing; 1 of 1 images named in"),
        (("annotations", 0, "bbox"), None, r"annotations\[0\]: has no key 'bbox'"),
        (
            ("annotations", 0, "bbox"),
            [1, 2, 3],
            r"annotations\[0\]\.bbox=\[1, 2, 3\]: must be a list of four",
        ),
        (
            ("annotations", 0, "category_id"),
            5,
            r"annotations\[0\].category_id=5: is not among the categories",
        ),
        (("annotations", 0, "image_id"), 5, r"annotations\[0\].image_id=5: is not among the images"),
        (("annotations", 0), 5, r"annotations\[0\]: must be an object, not 5"),
        (("categories", 1, "id"), 9, r"categories\[1\].id=9: occurs twice"),
        (("categories", 1, "name"), "cat", r"categories\[1\].name='cat': occurs twice"),
    ],
)
def test_bad_annotations_are_named(tmp_path, small, path, value, message):
    *parents, last = path
    place = small
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, small)
    assert "\n" not in str(error.value)


def test_a_file_without_images_is_an_error(tmp_path, small):
    with pytest.raises(UserError, match="has no images"):
        load(tmp_path, {**small, "images": [], "annotations": []})


def test_images_with_the_same_id_are_an_error(tmp_path, small):
    small["images"] *= 2
    with pytest.raises(UserError, match=r"images\[1\].id=7: occurs twice"):
        load(tmp_path, small)


def test_broken_and_missing_files_are_named(tmp_path, small):
    with pytest.raises(UserError, match=r"annotations\.json: is not valid JSON"):
        load(tmp_path, '{"images": [')
    with pytest.raises(UserError, match=r"none\.json: cannot be read"):
        coco_json_source(tmp_path / "none.json", tmp_path)
    load(tmp_path, small)
    with pytest.raises(UserError, match="none: is not a folder"):
        coco_json_source(tmp_path / "annotations.json", tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, small, content):
    source = load(tmp_path, small)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: cannot be decoded"):
        source.example(0)
    with pytest.raises(UserError, match=r"a\.png: cannot be decoded"):
        load(tmp_path, small)
    with pytest.raises(UserError, match=r"a\.png: cannot be decoded"):
        image_size(content, "a.png")


def test_an_image_that_was_deleted_is_named(tmp_path, small):
    source = load(tmp_path, small)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        source.example(0)


def test_an_image_of_another_size_is_named(tmp_path, small):
    source = load(tmp_path, small)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 31, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.png: is 20 x 31 pixels .* say 20 x 30"):
        source.example(0)
    with pytest.raises(UserError, match=r"a\.png is 20 x 31 pixels .* say 20 x 30"):
        load(tmp_path, small)
