"""A run recognizes its data by content."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.identity import in_recorded_order, read_records, record_of, write_records
from gfl_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images in two folders, with up to four boxes each."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(5):
        name = f"day{i % 2}/{i}.png"
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (40, 50, 3)).astype(np.uint8))
        images.append({"id": i, "file_name": name, "height": 40, "width": 50})
        annotations += [
            {
                "image_id": i,
                "category_id": int(rng.integers(1, 3)),
                "bbox": [*map(int, rng.integers(0, 20, 2)), *map(int, rng.integers(5, 20, 2))],
                "iscrowd": int(rng.random() < 0.2),
            }
            for _ in range(i)
        ]
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "x.json").write_text(json.dumps(content))
    return folder


def load(folder, content=None, root="images"):
    if content is not None:
        (folder / "y.json").write_text(json.dumps(content))
    return coco_json_source(folder / ("x.json" if content is None else "y.json"), folder / root)


def read(folder):
    return json.loads((folder / "x.json").read_text())


def assert_same(found, expected):
    assert found.file_names == expected.file_names
    for name in ("sizes", "boxes", "labels", "is_crowd", "offsets", "area"):
        np.testing.assert_array_equal(getattr(found.annotations, name), getattr(expected.annotations, name))
    for i in range(len(expected)):
        np.testing.assert_array_equal(found.read_image(i), expected.read_image(i))


@given(st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_the_recorded_order_is_restored(folder, random):
    source, content = load(folder), read(folder)
    random.shuffle(content["images"])
    random.shuffle(content["annotations"])
    for number, image in enumerate(content["images"]):  # the ids change too
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                annotation["image_id"] = f"new {number}"
        image["id"] = f"new {number}"
    assert_same(in_recorded_order(load(folder, content), record_of(source), "the run"), source)


def test_records_survive_writing_and_reading(folder, tmp_path):
    source = load(folder)
    write_records(tmp_path / "data.npz", {"train": record_of(source), "eval": record_of(source)})
    known = read_records(tmp_path / "data.npz")
    assert sorted(known) == ["eval", "train"]
    assert_same(in_recorded_order(source, known["train"], "the run"), source)


def test_another_root_is_the_same_content(folder, tmp_path):
    source = load(folder)
    shutil.copytree(folder / "images", tmp_path / "moved" / "a" / "images")
    content = read(folder)
    for image in content["images"]:
        image["file_name"] = f"a\\images\\{image['file_name']}".replace("/", "\\")
    found = in_recorded_order(load(tmp_path, content, root="moved"), record_of(source), "the run")
    assert_same(with_names_of(source, found), source)


def with_names_of(other, source):
    """The source with the file names of the other one, to compare everything else."""
    table = dataclasses.replace(source.annotations, file_names=other.file_names)
    return dataclasses.replace(source, annotations=table)


def test_renamed_files_are_recognized_by_content(folder, tmp_path):
    source, content = load(folder), read(folder)
    for number, image in enumerate(reversed(content["images"])):
        old, image["file_name"] = image["file_name"], f"{number:04d}.png"
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(folder / "images" / old, tmp_path / "images" / image["file_name"])
    found = in_recorded_order(load(tmp_path, content), record_of(source), "the run")
    assert_same(with_names_of(source, found), source)


def edit(content, change):
    if change == "image removed":
        gone = content["images"].pop()["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]
    elif change == "box moved":
        content["annotations"][0]["bbox"][0] += 1
    elif change == "label":
        content["annotations"][0]["category_id"] = 3 - content["annotations"][0]["category_id"]
    elif change == "crowd":
        content["annotations"][0]["iscrowd"] = 1 - content["annotations"][0]["iscrowd"]
    elif change == "box added":
        content["annotations"].append({**content["annotations"][0], "bbox": [3, 3, 9, 9]})
    elif change == "box of another image":
        content["annotations"][-1]["image_id"] = 0
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("image removed", "1 of its images are missing ('day0/4.png')"),
        ("box moved", "boxes of 1 image ('day1/1.png') differ"),
        ("label", "boxes of 1 image ('day1/1.png') differ"),
        ("crowd", "boxes of 1 image ('day1/1.png') differ"),
        ("box added", "the number of boxes of 1 image ('day1/1.png') differs"),
        ("box of another image", "the number of boxes of 2 images ('day0/0.png', 'day0/4.png') differs"),
    ],
)
def test_changed_annotations_are_refused_with_the_difference(folder, change, words):
    source = load(folder)
    other = load(folder, edit(read(folder), change))
    with pytest.raises(UserError) as caught:
        in_recorded_order(other, record_of(source), "the run in DIR")
    assert str(caught.value).startswith(
        f"{folder / 'y.json'}: is not the data set that the run in DIR started with: {words}"
    )
    assert "\n" not in str(caught.value)


def test_changed_pixels_and_new_images_are_refused(folder, tmp_path):
    source = load(folder)
    shutil.copytree(folder / "images", tmp_path / "images")
    cv2.imwrite(str(tmp_path / "images/day1/3.png"), np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(UserError, match=r"the content of the file of 1 image \('day1/3\.png'\) differs"):
        in_recorded_order(load(tmp_path, read(folder)), record_of(source), "the run")
    fewer = load(folder, edit(read(folder), "image removed"))
    with pytest.raises(UserError, match=r"1 of its images are new \('day0/4\.png'\)"):
        in_recorded_order(source, record_of(fewer), "the run")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
def test_a_damaged_file_of_records_is_named(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.npz: cannot be read .*delete the file"):
        read_records(tmp_path / "data.npz")
