import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gfl_jax.data import tfds_source as module
from gfl_jax.data.as_coco import coco_ground_truth
from gfl_jax.data.coco_categories import COCO_CATEGORY_IDS
from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.tfds_source import tfds_source
from gfl_jax.errors import UserError


@pytest.fixture
def copied(prepared_coco, tmp_path) -> Path:
    """A copy of the prepared data set without its index; a test may change it."""
    directory = tmp_path / "coco" / "2017" / "1.1.0"
    shutil.copytree(prepared_coco, directory, ignore=shutil.ignore_patterns("gfl_jax_index*"))
    return directory


def test_the_layout_is_the_official_one(prepared_coco):
    assert prepared_coco.parts[-3:] == ("coco", "2017", "1.1.0")
    builder = tfds.builder_from_directory(prepared_coco)
    assert (builder.name, builder.builder_config.name) == ("coco", "2017")
    assert set(builder.info.splits) == {"train", "validation"}
    features = builder.info.features
    assert set(features) == {"image", "image/filename", "image/id", "objects"}
    assert features["image"].shape == (None, None, 3)
    assert features["image"].np_dtype == np.uint8
    assert features["image/id"].np_dtype == np.int64
    objects = features["objects"].feature
    assert {name: feature.np_dtype for name, feature in objects.items()} == {
        "area": np.int64,
        "bbox": np.float32,
        "id": np.int64,
        "is_crowd": np.bool_,
        "label": np.int64,
    }
    assert objects["bbox"].shape == (4,)
    assert objects["label"].num_classes == 80
    assert objects["label"].names[:3] == ["person", "bicycle", "car"]


@pytest.mark.parametrize(("split", "part"), [("train", "train2017"), ("validation", "val2017")])
def test_the_source_equals_the_original_json(coco_tree, prepared_coco, split, part):
    original = coco_json_source(coco_tree / "annotations" / f"instances_{part}.json", coco_tree / part)
    source = tfds_source(prepared_coco, split)
    assert source.categories == original.categories
    assert source.category_ids == original.category_ids == COCO_CATEGORY_IDS
    assert source.max_boxes == original.max_boxes
    assert sorted(source.image_ids.tolist()) == sorted(original.image_ids.tolist())
    position = {image_id: i for i, image_id in enumerate(original.image_ids.tolist())}
    for i, image_id in enumerate(source.image_ids.tolist()):
        found, expected = source.example(i), original.example(position[image_id])
        assert source.file_names[i] == original.file_names[position[image_id]]
        np.testing.assert_array_equal(source.sizes[i], original.sizes[position[image_id]])
        for field, value, wanted in zip(found._fields, found, expected, strict=True):
            np.testing.assert_array_equal(value, wanted, err_msg=field)
            assert value.dtype == wanted.dtype


def test_ground_truth_equals_that_of_the_json(coco_tree, prepared_coco):
    original = coco_json_source(coco_tree / "annotations/instances_val2017.json", coco_tree / "val2017")

    def content(source):
        return sorted(
            (a["image_id"], a["category_id"], *a["bbox"], a["area"], a["iscrowd"])
            for a in coco_ground_truth(source)["annotations"]
        )

    assert content(tfds_source(prepared_coco, "validation")) == content(original)


def test_a_source_can_be_pickled(prepared_coco):
    source = tfds_source(prepared_coco, "train")
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.example(1).image, source.example(1).image)


def test_a_slice_is_a_split(prepared_coco):
    whole, part = tfds_source(prepared_coco, "train"), tfds_source(prepared_coco, "train[2:5]")
    np.testing.assert_array_equal(part.image_ids, whole.image_ids[2:5])
    np.testing.assert_array_equal(part.example(0).image, whole.example(2).image)


def test_sizes_are_read_once(copied, monkeypatch):
    first = tfds_source(copied, "train")
    assert len(list(copied.glob("gfl_jax_index_*.npz"))) == 1
    monkeypatch.setattr(module, "_make_index", None)
    second = tfds_source(copied, "train")
    np.testing.assert_array_equal(second.annotations.boxes, first.annotations.boxes)
    assert second.file_names == first.file_names


def test_a_broken_index_is_made_again(copied, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = tfds_source(copied, "train")
    (index,) = copied.glob("gfl_jax_index_*.npz")
    index.write_bytes(index.read_bytes()[:100])
    np.testing.assert_array_equal(tfds_source(copied, "train").sizes, first.sizes)
    with np.load(index) as stored:
        np.testing.assert_array_equal(stored["sizes"], first.sizes)


def test_the_index_goes_to_the_cache_folder_if_the_data_folder_is_read_only(copied, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save = module._save

    def refuse(path, index):
        if path.parent == copied:
            raise PermissionError
        save(path, index)

    monkeypatch.setattr(module, "_save", refuse)
    tfds_source(copied, "train")
    assert not list(copied.glob("gfl_jax_index_*"))
    assert len(list((tmp_path / "cache" / "gfl_jax").glob("gfl_jax_index_*.npz"))) == 1
    monkeypatch.setattr(module, "_make_index", None)
    tfds_source(copied, "train")


@pytest.mark.parametrize(
    ("parts", "command"),
    [(("aerial_trees", "1.0.0"), "trees$"), (("coco", "2017", "1.1.0"), "coco2017 "), (("x",), "--help")],
)
def test_a_missing_data_set_names_the_command(tmp_path, parts, command):
    with pytest.raises(UserError, match=rf"make it with: python scripts/prepare_dataset\.py {command}"):
        tfds_source(tmp_path.joinpath(*parts), "train")


def test_a_missing_split_is_named(prepared_coco):
    with pytest.raises(
        UserError, match=r"\(trian\): there is no such split; the splits are: train, validation"
    ):
        tfds_source(prepared_coco, "trian")


def test_a_data_set_of_another_kind_is_an_error(copied):
    path = copied / "features.json"
    features = json.loads(path.read_text())
    del features["featuresDict"]["features"]["objects"]
    path.write_text(json.dumps(features))
    with pytest.raises(UserError, match="detection data set"):
        tfds_source(copied, "train")


def test_a_data_set_in_another_file_format_is_an_error(copied):
    path = copied / "dataset_info.json"
    info = json.loads(path.read_text())
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        split["filepathTemplate"] = split["filepathTemplate"].replace("{FILEFORMAT}", "tfrecord")
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="not stored as array_record"):
        tfds_source(copied, "train")
