"""A run resumes with its classes and data, at any path and in any order."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from tiny_training import CONFIG, assert_same_run, change, make_plain_step, write_dataset

from gfl_jax import config
from gfl_jax.configuration.overrides import override
from gfl_jax.data.categories import Categories, read_categories
from gfl_jax.errors import UserError
from gfl_jax.training import loop
from gfl_jax.training.loop import train
from gfl_jax.training.run_data import open_run_data, write_run_data
from gfl_jax.training.saving import steps_in
from gfl_jax.training.start import match_classifier


def with_data(folder, train_name="annotations.json", eval_name="annotations.json", **fields):
    """The tiny config on the data in a folder."""
    data = config.Dataset(
        train_json=str(folder / train_name),
        train_images=str(folder),
        eval_json=str(folder / eval_name),
        eval_images=str(folder),
        **fields,
    )
    return change(CONFIG, dataset=data)


def edited(folder, name, edit):
    """Writes a changed copy of the annotations of a folder."""
    content = json.loads((folder / "annotations.json").read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))
    return name


def shuffled(content):
    """Reverses the order of everything, and gives classes other ids."""
    content["categories"].reverse()
    content["images"].reverse()
    content["annotations"].reverse()
    for category in content["categories"]:
        category["id"] += 100
    for annotation in content["annotations"]:
        annotation["category_id"] += 100


@pytest.fixture
def stopped(tiny_config, tmp_path, monkeypatch):
    """The folder of a run that was stopped after step 5, and of its data, moved and in another order."""

    def stop_at_5(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return loop.StopRequest.at(stop, step)

    stop = loop.StopRequest()
    monkeypatch.setattr(stop, "at", stop_at_5)
    train(tiny_config, tmp_path / "run", stop)
    assert steps_in(tmp_path / "run" / "checkpoints") == [4, 5]
    shutil.copytree(Path(tiny_config.dataset.train_images), tmp_path / "moved")
    edited(tmp_path / "moved", "annotations.json", shuffled)
    return tmp_path


def test_a_run_resumes_bit_identically_with_moved_and_reordered_data(stopped, whole_run):
    before = (stopped / "run" / "categories.json").read_bytes()
    moved = with_data(stopped / "moved", repeats=4)
    train(moved, stopped / "run")
    assert_same_run(stopped / "run", whole_run, 12)
    # Once more on the finished run, with another order: nothing changes.
    again = edited(stopped / "moved", "again.json", lambda content: content["categories"].reverse())
    train(with_data(stopped / "moved", again, again, repeats=4), stopped / "run")
    assert (stopped / "run" / "categories.json").read_bytes() == before
    assert_same_run(stopped / "run", whole_run, 12)


def rename(content):
    content["categories"][0]["name"] = "violet"


def drop_image(content):
    gone = content["images"].pop()["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]


def move_box(content):
    content["annotations"][0]["bbox"][0] += 1


@pytest.mark.parametrize(
    ("edit", "which", "words"),
    [
        (
            rename,
            "train",
            "x.json: lacks 'red' and has 'violet' as well, compared with the classes of the run",
        ),
        (rename, "eval", "x.json: its classes 'violet' are not in"),
        (drop_image, "train", "1 of its images are missing ('image_12.png')"),
        (drop_image, "eval", "1 of its images are missing ('image_12.png')"),
        (move_box, "train", "boxes of 1 image ('image_1.png') differ"),
        (move_box, "eval", "boxes of 1 image ('image_1.png') differ"),
    ],
)
def test_changed_content_is_refused_and_the_difference_is_named(whole_run, tmp_path, edit, which, words):
    write_dataset(tmp_path)
    edited(tmp_path, "x.json", edit)
    names = {"train_name": "x.json"} if which == "train" else {"eval_name": "x.json"}
    before = sorted(p.stat().st_mtime_ns for p in whole_run.rglob("*"))
    with pytest.raises(UserError) as caught:
        train(with_data(tmp_path, repeats=4, **names), whole_run)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(p.stat().st_mtime_ns for p in whole_run.rglob("*")) == before


def test_a_run_without_evaluation(tiny_config, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(loop, "make_train_step", make_plain_step)
    short = override(tiny_config, {"dataset.eval_json": "", "dataset.eval_images": "", "schedule.steps": 2})
    with caplog.at_level("INFO", "gfl_jax"):
        assert train(short, tmp_path) == {}
    assert "names no evaluation data; the result is the last checkpoint" in caplog.text
    assert steps_in(tmp_path / "checkpoints") == [2]
    assert (tmp_path / "curves.png").is_file()
    assert not steps_in(tmp_path / "best")


def test_unannotated_evaluation_data_are_refused_before_the_first_step(tmp_path):
    write_dataset(tmp_path / "data")
    name = edited(tmp_path / "data", "info.json", lambda content: content.pop("annotations"))
    with pytest.raises(UserError, match=r"info\.json: has no annotations, so it cannot be evaluated"):
        train(with_data(tmp_path / "data", eval_name=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_record_uses_the_current_data_with_a_warning(whole_run, tmp_path, caplog):
    shutil.copytree(whole_run, tmp_path / "run")
    (tmp_path / "run" / "data.npz").unlink()
    write_dataset(tmp_path)
    data = open_run_data(with_data(tmp_path), tmp_path / "run")
    write_run_data(tmp_path / "run", data)
    assert "data.npz: is missing; assuming that the run started with the current data" in caplog.text
    assert (tmp_path / "run" / "data.npz").is_file()
    assert read_categories(tmp_path / "run").names == ("red", "green", "blue")


@pytest.mark.parametrize("anchors", [1, 2])
def test_a_classifier_is_matched_by_name(anchors):
    """Shared classes keep their weights, others are new. Without shared classes the classifier is new."""
    rng = np.random.default_rng(0)

    def variables(classes):
        head = {
            "kernel": rng.normal(size=(3, 3, 8, anchors * classes)),
            "bias": rng.normal(size=anchors * classes),
        }
        return {"params": {"head": {"class_logits": head}, "fpn": {"x": rng.normal(size=3)}}}

    def weights(tree, classes):
        kernel = tree["params"]["head"]["class_logits"]["kernel"].reshape(3, 3, 8, anchors, len(classes))
        return {name: kernel[..., k] for k, name in enumerate(classes)}

    own, theirs = variables(3), variables(2)
    classes, before = ("square", "disc", "ring"), ("disc", "square")
    found = match_classifier(own, theirs, Categories(classes, (1, 2, 3)), Categories(before, (1, 2)), "x")
    new, old = weights(found, classes), weights(theirs, before)
    for name in before:
        np.testing.assert_array_equal(new[name], old[name])
    np.testing.assert_array_equal(new["ring"], weights(own, classes)["ring"])
    np.testing.assert_array_equal(found["params"]["fpn"]["x"], theirs["params"]["fpn"]["x"])
    strangers = Categories(("cat", "dog"), (1, 2))
    none = match_classifier(own, theirs, Categories(classes, (1, 2, 3)), strangers, "x")
    assert "head" not in none["params"]
    same = match_classifier(own, theirs, Categories(before, (7, 8)), Categories(before, (1, 2)), "x")
    np.testing.assert_array_equal(weights(same, before)["disc"], old["disc"])
