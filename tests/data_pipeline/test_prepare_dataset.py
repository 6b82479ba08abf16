import hashlib
import importlib.util
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from gfl_jax.data import tree_builder
from gfl_jax.data.tfds_source import tfds_source

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
BOXES = {
    "train": ((8, 2, 16, 10), (57, 5, 65, 15), (59, 20, 63, 30)),
    "validation": ((1, 1, 9, 9),),
    "far": ((2, 3, 8, 7),),
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare_dataset", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path, script, monkeypatch) -> Path:
    """A wheel with the layout of the real one and small images of 40 x 80 pixels."""
    path = tmp_path / "local.whl"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for split, boxes in BOXES.items():
            name = tree_builder.SPLITS[split].image_name
            pixels = rng.integers(0, 256, (40, 80, 3), np.uint8)
            archive.writestr(f"deepforest/data/{name}.png", cv2.imencode(".png", pixels)[1].tobytes())
            objects = "".join(
                f"<object><name>{kind}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for (x1, y1, x2, y2), kind in zip(boxes, ("Tree", "Dead", "Alive"), strict=False)
            )
            archive.writestr(f"deepforest/data/{name}.xml", f"<annotation>{objects}</annotation>")
    monkeypatch.setattr(script, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def prepare(script, tmp_path, *arguments):
    return script.main(["trees", f"--data-dir={tmp_path / 'data'}", *map(str, arguments)])


def test_trees_become_five_splits(script, wheel, tmp_path, capsys):
    assert prepare(script, tmp_path, f"--wheel={wheel}") == 0
    directory = tmp_path / "data" / "aerial_trees" / "1.0.0"
    found = {split: tfds_source(directory, split) for split in tree_builder.SPLITS}
    for source in found.values():
        assert source.categories == ("Tree",)
        assert source.category_ids == (1,)
        assert len(source) == 1
    for split, boxes in BOXES.items():
        np.testing.assert_array_equal(found[split].example(0).boxes, boxes)
    assert len({int(source.image_ids[0]) for source in found.values()}) == 5
    whole, left, right = (found[s].example(0) for s in ("train", "tune_train", "tune_validation"))
    np.testing.assert_array_equal(np.concatenate([left.image, right.image], axis=1), whole.image)
    assert left.image.shape == (40, 60, 3)
    np.testing.assert_array_equal(left.boxes, [(8, 2, 16, 10)])  # of the second box, 3 of 8 columns are here
    np.testing.assert_array_equal(right.boxes, [(0, 5, 5, 15), (0, 20, 3, 30)])
    capsys.readouterr()
    assert prepare(script, tmp_path) == 0  # needs no wheel any more
    assert "already exists; nothing to do" in capsys.readouterr().out


def test_the_wheel_is_fetched_once_and_checked(script, wheel, tmp_path, monkeypatch):
    def fetch(command, **_):
        assert command[1:6] == ["-m", "pip", "download", "--no-deps", "deepforest==2.1.0"]
        shutil.copyfile(wheel, Path(command[-1]) / script.WHEEL)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", fetch)
    assert prepare(script, tmp_path) == 0
    assert [p.name for p in (tmp_path / "data" / "downloads").iterdir() if p.name[:3] != "ext"] == [
        script.WHEEL
    ]
    monkeypatch.setattr(subprocess, "run", None)
    shutil.rmtree(tmp_path / "data" / "aerial_trees")
    assert prepare(script, tmp_path) == 0


def assert_one_line(capsys, *parts):
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    for part in parts:
        assert part in errors


def test_a_wheel_that_cannot_be_fetched_is_an_error(script, tmp_path, monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "a\nERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert prepare(script, tmp_path) == 2
    assert_one_line(capsys, "ERROR: no network", "--wheel")
    assert not (tmp_path / "data" / "aerial_trees").exists()


def test_a_wheel_with_other_content_is_an_error(script, wheel, tmp_path, capsys):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    assert prepare(script, tmp_path, f"--wheel={wheel}") == 2
    assert_one_line(capsys, str(wheel), "sha256")
    assert prepare(script, tmp_path, f"--wheel={tmp_path / 'none.whl'}") == 2
    assert_one_line(capsys, "none.whl: there is no such file")


def test_an_interrupted_preparation_leaves_no_data_set(script, wheel, tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(tree_builder, "encode_png", stop)  # after three splits are written
        with pytest.raises(KeyboardInterrupt):
            prepare(script, tmp_path, f"--wheel={wheel}")
    assert not (tmp_path / "data" / "aerial_trees" / "1.0.0").exists()
    assert prepare(script, tmp_path, f"--wheel={wheel}") == 0


def test_coco_is_prepared_once(script, coco_tree, tmp_path, capsys):
    arguments = ["coco2017", f"--coco-dir={coco_tree}", f"--data-dir={tmp_path}"]
    assert script.main(arguments) == 0
    assert len(tfds_source(tmp_path / "coco/2017/1.1.0", "validation")) == 7
    assert "images: train 7, validation 7" in capsys.readouterr().out
    assert script.main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_coco_test_images_become_a_split_if_they_exist(script, coco_tree, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(coco_tree, tree)
    shutil.copytree(tree / "val2017", tree / "test2017")
    data = json.loads((tree / "annotations/instances_val2017.json").read_text())
    del data["annotations"]  # as in the original
    (tree / "annotations/image_info_test2017.json").write_text(json.dumps(data))
    assert script.main(["coco2017", f"--coco-dir={tree}", f"--data-dir={tmp_path}"]) == 0
    info = json.loads((tmp_path / "coco/2017/1.1.0/dataset_info.json").read_text())
    assert [split["name"] for split in info["splits"]] == ["train", "validation", "test"]


def test_a_coco_tree_that_lacks_something_is_an_error(script, coco_tree, tmp_path, capsys):
    tree = tmp_path / "tree"
    shutil.copytree(coco_tree, tree)
    arguments = ["coco2017", f"--coco-dir={tree}", f"--data-dir={tmp_path}"]
    image = next((tree / "val2017").iterdir())
    image.rename(tmp_path / image.name)
    assert script.main(arguments) == 2
    assert_one_line(capsys, f"{image}: is missing")
    (tree / "annotations/instances_val2017.json").unlink()
    assert script.main(arguments) == 2
    assert_one_line(capsys, "instances_val2017.json: is missing", "--coco-dir")


def test_a_box_outside_its_image_is_named(script, coco_tree, tmp_path, capsys, caplog):
    tree = tmp_path / "tree"
    shutil.copytree(coco_tree, tree)
    path = tree / "annotations/instances_val2017.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"] = [-3, 1, 20, 20]
    path.write_text(json.dumps(data))
    assert script.main(["coco2017", f"--coco-dir={tree}", f"--data-dir={tmp_path}"]) == 2
    assert "error: " in (errors := capsys.readouterr().err)
    assert "the box of annotation 5, [-3.0, 1.0, 20.0, 20.0], is not inside its image" in errors
    assert not (tmp_path / "coco/2017/1.1.0").exists()


def test_help_names_splits_flags_and_files(script, capsys):
    for arguments in (["--help"], ["trees", "--help"], ["coco2017", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            script.main(arguments)
    text = capsys.readouterr().out
    for part in ("tune_validation", "--wheel", "--data-dir", "--coco-dir", "instances_train2017.json"):
        assert part in text
