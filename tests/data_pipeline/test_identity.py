"""A run knows its data by content."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.identity import as_known, known_of, read_known, write_known
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
def test_another_order_is_put_back(folder, random):
    source, content = load(folder), read(folder)
    random.shuffle(content["images"])
    random.shuffle(content["annotations"])
    for number, image in enumerate(content["images"]):  # numbered anew as well
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                annotation["image_id"] = f"new {number}"
        image["id"] = f"new {number}"
    assert_same(as_known(load(folder, content), known_of(source), "the run"), source)


def test_what_is_kept_survives_its_file(folder, tmp_path):
    source = load(folder)
    write_known(tmp_path / "data.npz", {"train": known_of(source), "eval": known_of(source)})
    known = read_known(tmp_path / "data.npz")
    assert sorted(known) == ["eval", "train"]
    assert_same(as_known(source, known["train"], "the run"), source)


def test_another_root_is_the_same_content(folder, tmp_path):
    source = load(folder)
    shutil.copytree(folder / "images", tmp_path / "moved" / "a" / "images")
    content = read(folder)
    for image in content["images"]:
        image["file_name"] = f"a\\images\\{image['file_name']}".replace("/", "\\")
    found = as_known(load(tmp_path, content, root="moved"), known_of(source), "the run")
    assert_same(with_names_of(source, found), source)


def with_names_of(other, source):
    """A source with the file names of another one, for a comparison of all else."""
    table = dataclasses.replace(source.annotations, file_names=other.file_names)
    return dataclasses.replace(source, annotations=table)


def test_renamed_files_are_known_by_their_content(folder, tmp_path):
    source, content = load(folder), read(folder)
    for number, image in enumerate(reversed(content["images"])):
        old, image["file_name"] = image["file_name"], f"{number:04d}.png"
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(folder / "images" / old, tmp_path / "images" / image["file_name"])
    found = as_known(load(tmp_path, content), known_of(source), "the run")
    assert_same(with_names_of(source, found), source)


def edit(content, change):
    if change == "image gone":
        gone = content["images"].pop()["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]
    elif change == "box moved":
        content["annotations"][0]["bbox"][0] += 1
    elif change == "label":
        content["annotations"][0]["category_id"] = 3 - content["annotations"][0]["category_id"]
    elif change == "crowd":
        content["annotations"][0]["iscrowd"] = 1 - content["annotations"][0]["iscrowd"]
    elif change == "box more":
        content["annotations"].append({**content["annotations"][0], "bbox": [3, 3, 9, 9]})
    elif change == "box of another image":
        content["annotations"][-1]["image_id"] = 0
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("image gone", "1 of its images are gone ('day0/4.png')"),
        ("box moved", "boxes of 1 images ('day1/1.png') differ"),
        ("label", "boxes of 1 images ('day1/1.png') differ"),
        ("crowd", "boxes of 1 images ('day1/1.png') differ"),
        ("box more", "the number of boxes of 1 images ('day1/1.png') differs"),
        ("box of another image", "the number of boxes of 2 images ('day0/0.png', 'day0/4.png') differs"),
    ],
)
def test_other_annotations_are_refused_with_what_differs(folder, change, words):
    source = load(folder)
    other = load(folder, edit(read(folder), change))
    with pytest.raises(UserError) as caught:
        as_known(other, known_of(source), "the run in DIR")
    assert str(caught.value).startswith(
        f"{folder / 'y.json'}: is not what the run in DIR began with: {words}"
    )
    assert "\n" not in str(caught.value)


def test_other_pixels_and_new_images_are_refused(folder, tmp_path):
    source = load(folder)
    shutil.copytree(folder / "images", tmp_path / "images")
    cv2.imwrite(str(tmp_path / "images/day1/3.png"), np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(UserError, match=r"the content of the file of 1 images \('day1/3\.png'\) differs"):
        as_known(load(tmp_path, read(folder)), known_of(source), "the run")
    fewer = load(folder, edit(read(folder), "image gone"))
    with pytest.raises(UserError, match=r"1 of its images are new \('day0/4\.png'\)"):
        as_known(source, known_of(fewer), "the run")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.npz: cannot be read .*delete the file"):
        read_known(tmp_path / "data.npz")
