"""Folders that labelling tools export, and the config that finetunes a detector on such a folder."""

import json

import pytest
from small_coco import write_coco

from gfl_jax.config import Config, Dataset
from gfl_jax.configuration.config_files import CONFIGS, load_config
from gfl_jax.data.coco_file import read_coco
from gfl_jax.data.layouts import find_layout
from gfl_jax.data.loader import make_source
from gfl_jax.data.selection import held_out
from gfl_jax.errors import UserError

TEN = [f"{i}.png" for i in range(10)]
LAYOUTS = {  # annotation file and image folder for training, then for evaluation; then the image names
    "roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid", TEN),
    "cvat": ("annotations/instances_default.json", "images", None, None, TEN),
    "cvat_subsets": (
        *("annotations/instances_Train.json", "images/Train"),
        *("annotations/instances_Validation.json", "images/Validation", TEN),
    ),
    "label_studio": ("result.json", ".", None, None, ["images\\" + name for name in TEN]),
    "fiftyone": ("train/labels.json", "train/data", "val/labels.json", "val/data", TEN),
    "coco": (
        *("annotations/instances_train2017.json", "train2017"),
        *("annotations/instances_val2017.json", "val2017", TEN),
    ),
    "cvat_test": (
        *("annotations/instances_train.json", "images/train"),
        *("annotations/instances_test.json", "images/test", TEN),
    ),
    "beside": ("train.json", "train", "val.json", "val", TEN),
    "inside": ("train/annotations.json", "train/images", "test/annotations.json", "test/images", TEN),
}


@pytest.mark.parametrize("tool", LAYOUTS)
def test_layouts(tool, tmp_path):
    train, train_images, evaluation, eval_images, names = LAYOUTS[tool]
    write_coco(tmp_path / train, tmp_path / train_images, names)
    if evaluation:
        write_coco(tmp_path / evaluation, tmp_path / eval_images, names[:3])
    if tool == "coco":
        write_coco(
            tmp_path / "annotations" / "person_keypoints_train2017.json", tmp_path / train_images, names
        )
        (tmp_path / "annotations" / "captions_val2017.json").write_text('{"images": [], "annotations": []}')
    found = find_layout(tmp_path)
    assert found.train.json == tmp_path / train
    assert found.train.images == tmp_path / train_images
    if evaluation:
        assert found.evaluation.json == tmp_path / evaluation
        assert found.evaluation.images == tmp_path / eval_images
    else:
        assert found.evaluation is None


def test_errors_of_folders_without_a_data_set(tmp_path):
    def message():
        with pytest.raises(UserError) as caught:
            find_layout(tmp_path / "data")
        return str(caught.value).removeprefix(f"{tmp_path / 'data'}")

    assert message() == ": is not a folder; name a folder of images with annotations"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "package.json").write_text("{}")
    assert message().startswith(": has no annotations in COCO format")
    for name in ("valid", "test"):
        write_coco(tmp_path / "data" / name / "a.json", tmp_path / "data" / name, TEN)
    assert message().startswith(": none of its annotation files is marked as training data")
    for name in ("a_train", "b_train"):
        write_coco(tmp_path / "data" / f"{name}.json", tmp_path / "data", TEN)
    assert (
        message() == ": has 2 annotation files for train (a_train.json, b_train.json); keep only one of them"
    )
    (tmp_path / "data" / "b_train.json").unlink()
    for name in TEN:
        (tmp_path / "data" / name).unlink()
    assert message() == (
        f"/a_train.json: its images, such as 0.png, are not in {tmp_path / 'data'}; put them beside the "
        "file, or into a folder `images`"
    )


def test_a_file_without_images_is_an_error(tmp_path):
    write_coco(tmp_path / "train.json", tmp_path, TEN[:1])
    content = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(content | {"images": [], "annotations": []}))
    with pytest.raises(UserError, match="has no annotations in COCO format"):
        find_layout(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(content | {"images": []}))
    with pytest.raises(UserError, match="is not among the images"):
        find_layout(tmp_path)


def test_the_project_category_of_roboflow_is_dropped(tmp_path):
    content = write_coco(tmp_path / "train.json", tmp_path, TEN)
    project = {"id": 0, "name": "pets", "supercategory": "none"}
    content["categories"] = [project, *({**c, "supercategory": "pets"} for c in content["categories"])]
    (tmp_path / "train.json").write_text(json.dumps(content))
    truth = read_coco(tmp_path / "train.json")
    assert truth.categories == (("cat", "dog"), (1, 2))
    assert set(truth.labels.tolist()) == {0}
    content["annotations"][0]["category_id"] = 0  # a category with annotations is kept
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert read_coco(tmp_path / "train.json").categories.names == ("pets", "cat", "dog")


def test_held_out_images(tmp_path):
    write_coco(tmp_path / "all.json", tmp_path, TEN)
    data = Dataset(train_json=str(tmp_path / "all.json"), train_images=str(tmp_path), holdout=0.2)
    config = Config("test", dataset=data, detector=load_config("gfl_trees").detector)
    with pytest.raises(UserError, match="num_classes=1"):
        make_source(config, "train")
    held = {name for name, kept in zip(TEN, held_out(TEN, 0.2), strict=True) if kept}
    assert len(held) == 2
    assert set(make_source(config, "eval").file_names) == held
    more = [*reversed(TEN), "new.png"]
    assert len(held & {name for name, kept in zip(more, held_out(more, 0.2), strict=True) if kept}) >= 1
    with pytest.raises(UserError, match="1 images cannot be divided"):
        held_out(["a"], 0.1)


def finetune(folder, model="gfl_trees", more=""):
    return load_config(f"{CONFIGS / 'finetune.py'}:data={folder},model={model}{more}")


def test_steps_and_batch_change_what_depends_on_them(tmp_path):
    write_coco(tmp_path / "result.json", tmp_path, TEN)
    config = finetune(tmp_path, more=",steps=50,batch=4")
    assert (config.schedule.steps, config.loader.batch_size) == (50, 4)
    assert (config.schedule.warmup_steps, config.run.evaluate_every) == (5, 10)
    assert finetune(tmp_path, more=",batch=4").schedule.steps == 2000  # 8000 images
    for wrong in ("steps=0", "batch=0"):
        with pytest.raises(UserError, match=f":{wrong}: must be from 1 to"):
            finetune(tmp_path, more=f",{wrong}")


def test_the_config_for_custom_data(tmp_path, caplog):
    write_coco(tmp_path / "train" / "a.json", tmp_path / "train", TEN, boxes=130)
    write_coco(tmp_path / "val" / "a.json", tmp_path / "val", TEN[:3])
    with caplog.at_level("INFO"):
        config = finetune(tmp_path, "gfl_r50_fpn_1x_coco")
    assert config.init_from == "gfl_r50_fpn_1x_coco"
    assert config.detector.num_classes == 2
    assert config.inference.max_detections == 200
    assert (config.schedule.steps, config.loader.batch_size, config.loader.buckets) == (1000, 8, None)
    assert config.optimizer.learning_rate == 0.005
    assert config.resize.short_side == 192  # twice the images'
    assert config.resize.short_sides_in_training == (192, 192)
    assert config.dataset.eval_json == str(tmp_path / "val" / "a.json")
    log = "\n".join(caplog.messages)
    assert "10 images with 1300 boxes; classes: 'cat', 'dog'" in log
    assert "3 images for evaluation" in log
    assert "1000 steps of 8 images, learning rate 0.005" in log
    assert finetune(tmp_path).crops == load_config("gfl_trees").crops


def test_without_images_for_evaluation_a_tenth_is_held_out(tmp_path):
    write_coco(tmp_path / "result.json", tmp_path, TEN, categories=("cat",))
    config = finetune(tmp_path)
    train, evaluation = make_source(config, "train"), make_source(config, "eval")
    assert (len(train), len(evaluation)) == (9, 1)
    assert {*train.file_names, *evaluation.file_names} == set(TEN)


def test_an_unknown_model(tmp_path):
    with pytest.raises(
        UserError, match="yolo: is neither a work directory of `train` nor a published detector"
    ):
        finetune(tmp_path, "yolo")
