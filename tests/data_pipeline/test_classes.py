"""Classes are matched by name; their order and ids do not matter."""

import json
import logging
import re

import cv2
import numpy as np
import pytest

from gfl_jax.config import Config, Dataset, Detector
from gfl_jax.data.categories import Categories, has_categories, read_categories, write_categories
from gfl_jax.data.coco_categories import COCO_CATEGORY_NAMES
from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.loader import has_eval_data, make_source
from gfl_jax.data.source import match_classes, require_same_classes
from gfl_jax.errors import UserError
from gfl_jax.evaluation.evaluate import measure_results, open_evaluation
from gfl_jax.evaluation.results import to_coco_results

OWN = Categories(("square", "disc"), (1, 2))


def write(folder, names, name="x.json", labels=(0, 1)):
    """Writes one image with a box for each label; category ids are 10, 20, ... in the order of the names."""
    cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [
            {"image_id": 7, "category_id": 10 * (k + 1), "bbox": [20 * k, 5, 9, 9 + k]} for k in labels
        ],
        "categories": [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(names)],
    }
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_another_order_of_classes_is_mapped(tmp_path):
    straight = coco_json_source(write(tmp_path, ("square", "disc")), tmp_path)
    swapped = coco_json_source(write(tmp_path, ("disc", "square"), labels=(1, 0)), tmp_path)
    for source in (straight, swapped):
        matched, missing, foreign = match_classes(source, OWN, "them")
        assert (missing, foreign) == ((), ())
        assert matched.categories == OWN.names
        heights = matched.annotations.boxes[:, 3] - matched.annotations.boxes[:, 1]
        by_name = {matched.categories[k]: h for k, h in zip(matched.annotations.labels, heights, strict=True)}
        names = ("square", "disc") if source is straight else ("disc", "square")
        assert by_name == {names[0]: 9, names[1]: 10}
    assert match_classes(swapped, OWN, "them").source.category_ids == (20, 10)


def perfect(source):
    """The true boxes as detections, with the labels of the detector."""
    table = source.annotations
    return to_coco_results(table.boxes, np.ones(len(table.boxes)), table.labels, 7, source.category_ids)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("square", "disc"), ""),
        (("disc", "square"), ""),
        (("cat", "square"), "has the classes 'cat', which the detector lacks; AP does not include them"),
        (("square", "disc", "cat"), "has the classes 'cat', which the detector lacks"),
        (("disc",), "lacks the classes 'square' of the detector; detections of them are left out"),
    ],
)
def test_evaluation_matches_by_name_and_reports_unmatched_classes(tmp_path, caplog, names, line):
    path = write(tmp_path, names, labels=range(len(names)))
    config = Config(name="t", dataset=Dataset(eval_json=str(path), eval_images=str(tmp_path)))
    write_categories(tmp_path, OWN)
    with caplog.at_level(logging.INFO, "gfl_jax"):
        source = open_evaluation(config, read_categories(tmp_path), str(tmp_path))
    results = perfect(source)
    # A false positive of class "square"; it does not count if the data set has no such class.
    results += to_coco_results(np.array([[30, 20, 35, 25]]), [0.1], [0], 7, source.category_ids)
    metrics = measure_results(source, results)
    assert metrics.AP > 1 - 1e-12
    assert {c.name for c in metrics.classes} == set(names) & set(OWN.names)
    assert bool(caplog.records) == bool(line)
    assert line in caplog.text


@pytest.mark.parametrize("turned", [False, True])
def test_classes_of_a_tfds_data_set_are_matched_by_name_too(prepared_coco, tmp_path, turned):
    names = COCO_CATEGORY_NAMES[::-1] if turned else COCO_CATEGORY_NAMES
    write_categories(tmp_path, Categories(tuple(names), tuple(range(80))))
    config = Config(name="t", dataset=Dataset(tfds_dir=str(prepared_coco)))
    source = open_evaluation(config, read_categories(tmp_path), str(tmp_path))
    assert source.categories == tuple(names)
    results = []
    for i, image_id in enumerate(source.image_ids):
        x = source.example(i)
        found = x.boxes, np.ones(len(x.boxes)), x.labels
        results += to_coco_results(*(part[~x.is_crowd] for part in found), image_id, source.category_ids)
    assert measure_results(source, results).AP > 1 - 1e-12


def test_no_class_in_common_is_an_error(tmp_path):
    path = write(tmp_path, ("cat", "dog"))
    with pytest.raises(UserError, match=r"none of its classes \('cat', 'dog'\) is one of the run") as caught:
        match_classes(coco_json_source(path, tmp_path), OWN, "the run")
    assert "'square', 'disc'" in str(caught.value)


@pytest.mark.parametrize("names", [("square", "ring"), ("square", "disc", "ring"), ("disc",)])
def test_resuming_requires_the_same_classes(tmp_path, names):
    source = coco_json_source(write(tmp_path, names, labels=(0,)), tmp_path)
    with pytest.raises(UserError, match=re.escape("x.json: ") + ".*(lacks|has) '"):
        require_same_classes(source, OWN, "the run")


def test_training_requires_the_right_number_of_classes(tmp_path):
    path = write(tmp_path, ("square", "disc"))
    data = Dataset(train_json=str(path), train_images=str(tmp_path))
    with pytest.raises(UserError, match=r"num_classes=80: .* has 2 categories; set num_classes to this"):
        make_source(Config(name="t", dataset=data), "train")


def test_categories_are_stored_exactly_and_found_from_a_checkpoint(tmp_path):
    categories = Categories(("valve [open]", "end [/limit]", "Käse"), (2**70, "0001", -3))
    write_categories(tmp_path, categories)
    (tmp_path / "best" / "12").mkdir(parents=True)
    for path in (tmp_path, tmp_path / "best", tmp_path / "best" / "12"):
        assert read_categories(path) == categories
        assert has_categories(path)
    assert not has_categories(tmp_path.parent)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "3", '[{"id": 1}]', '[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]', "\x00"]
)
def test_damaged_categories_are_named(tmp_path, text):
    (tmp_path / "categories.json").write_text(text)
    with pytest.raises(UserError, match=r"categories\.json: cannot be read") as caught:
        read_categories(tmp_path)
    assert "\n" not in str(caught.value)


def test_data_for_evaluation_are_optional():
    def has(**fields):
        return has_eval_data(Config(name="t", dataset=Dataset(**fields)))

    assert has(eval_json="x", eval_images="y")
    assert has(eval_json="x")  # incomplete, which is an error later, when the data are opened
    assert has(tfds_dir="x")
    assert not has(train_json="x", train_images="y")
    assert not has(tfds_dir="x", eval_split="")


def dataset_of(folder, sizes, annotations):
    for i, (height, width) in enumerate(sizes):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((height, width, 3), np.uint8))
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in enumerate(sizes)
        ],
        "annotations": [{"category_id": 1, "bbox": [0, 0, 9, 9], **a} for a in annotations],
        "categories": [{"id": 1, "name": "square"}],
    }
    (folder / "x.json").write_text(json.dumps(content))
    return Dataset(train_json=str(folder / "x.json"), train_images=str(folder))


def train_source(data):
    return make_source(Config(name="t", detector=Detector(num_classes=1), dataset=data), "train")


def test_images_are_left_out_as_in_mmdetection(tmp_path, caplog):
    """Empty and small images are left out. An image with only a crowd or a bad box is not empty and stays."""
    sizes = [(40, 40), (40, 40), (31, 90), (90, 31), (32, 32), (40, 40)]
    annotations = [{"image_id": i} for i in (0, 2, 3)]
    annotations += [{"image_id": 4, "iscrowd": 1}, {"image_id": 5, "bbox": [0, 0, 0, 0]}]
    annotations += [{"image_id": 0, "ignore": 1, "bbox": [1, 1, 20, 20]}]
    data = dataset_of(tmp_path, sizes, annotations)
    assert len(train_source(data)) == 6
    caplog.clear()
    with caplog.at_level(logging.INFO, "gfl_jax"):
        source = train_source(Dataset(**{**vars(data), "filter_empty": True, "min_size": 32}))
    assert source.file_names == ("0.png", "4.png", "5.png")
    assert source.image_ids.tolist() == [0, 4, 5]
    assert source.read_image(1).shape == (32, 32, 3)
    assert [len(source.example(i).boxes) for i in range(3)] == [1, 1, 0]
    lines = [record.getMessage() for record in caplog.records]
    assert any("dropped 1 boxes that are marked with 'ignore'" in line for line in lines)
    wanted = "3 of 6 images are used for training; left out: 1 without annotations, 2 with a side below 32"
    assert lines[-1].endswith(f"{wanted} pixels")


@pytest.mark.parametrize(
    "annotation",
    [{"iscrowd": 1}, {"ignore": 1}, {"bbox": [0, 0, 0, 5]}, {"bbox": [90, 90, 5, 5]}, {"area": 0}, None],
)
def test_data_without_usable_boxes_are_refused(tmp_path, annotation):
    data = dataset_of(tmp_path, [(40, 40)], [] if annotation is None else [{"image_id": 0, **annotation}])
    with pytest.raises(UserError, match=r"x\.json: has no boxes to train on"):
        train_source(data)
