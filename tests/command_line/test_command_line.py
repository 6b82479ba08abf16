"""User errors give one line, exit status 2 and no traceback; and a run of `predict`."""

import json
import shutil
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from gfl_jax.command_line.main import main
from gfl_jax.verification import verify
from gfl_jax.verification.reference import Row

ROOT = Path(__file__).resolve().parents[2]
TREES = f"--config={ROOT / 'configs' / 'gfl_trees.py'}"
DEVICES = jax.device_count()
SIZES = [f"--config.loader.{name}={DEVICES}" for name in ("batch_size", "eval_batch_size")]
TRAIN = ["train", TREES, *SIZES]


def write_image(path, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


def error_line(capsys, arguments):
    """Runs a command that must exit with status 2; returns the one line that it prints on stderr."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.optimizer.lr=0.1", ["config.optimizer.lr: there is no such field", "learning_rate"]),
        ("--config.optimizer.learning_rate=fast", ["config.optimizer.learning_rate='fast': must be float"]),
        ("--config.loader.buckets=(8,8)", ["config.loader.buckets[0]=8: must be tuple[int, int]"]),
        ("--config.=1", ["config.: there is no such field"]),
    ],
)
def test_an_invalid_config_field(capsys, tmp_path, argument, words):
    line = error_line(capsys, [*TRAIN, f"--workdir={tmp_path / 'run'}", argument])
    assert all(word in line for word in words)
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file(capsys, tmp_path):
    line = error_line(capsys, ["train", "--config=nowhere.py", f"--workdir={tmp_path}"])
    assert line.startswith("error: --config=nowhere.py: there is no such file; see configs/")


@pytest.mark.parametrize(
    ("directory", "command"),
    [
        ("aerial_trees/1.0.0", "python scripts/prepare_dataset.py trees"),
        ("coco/2017/1.1.0", "python scripts/prepare_dataset.py coco2017"),
    ],
)
def test_a_missing_data_set(capsys, tmp_path, directory, command):
    missing = tmp_path / directory
    arguments = [*TRAIN, f"--workdir={tmp_path / 'run'}", f"--config.dataset.tfds_dir={missing}"]
    line = error_line(capsys, arguments)
    assert str(missing) in line
    assert command in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", ["5:5", "5", "first:last"])
def test_an_invalid_range_of_steps_to_profile(capsys, tmp_path, steps):
    line = error_line(capsys, [*TRAIN, f"--workdir={tmp_path / 'run'}", f"--profile={steps}"])
    assert line.startswith(f"error: --profile={steps}: ")
    assert not (tmp_path / "run").exists()


def test_no_data_set(capsys, tmp_path):
    line = error_line(capsys, [*TRAIN, f"--workdir={tmp_path / 'run'}", "--config.dataset.tfds_dir=''"])
    assert "config.dataset: names no data for train; set tfds_dir, or train_json and train_images" in line


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "image.png"]])
def test_a_missing_work_directory(capsys, tmp_path, command):
    missing = tmp_path / "nowhere"
    line = error_line(capsys, [*command, f"--workdir={missing}"])
    assert line.startswith(f"error: {missing / 'config.json'}: there is no such file; name a work directory")
    line = error_line(capsys, ["predict", "image.png", f"--workdir={missing}", TREES])
    assert line.startswith(f"error: {missing}: has no checkpoint; name a work directory")
    assert not missing.exists()


def test_a_missing_checkpoint(capsys, trained):
    line = error_line(capsys, ["predict", "x.png", f"--workdir={trained}", "--checkpoint=nowhere"])
    assert "nowhere: has no checkpoint;" in line


def test_missing_categories(capsys, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("categories.json"))
    line = error_line(capsys, ["predict", "x.png", f"--workdir={tmp_path / 'run'}"])
    assert f"{tmp_path / 'run'}: has no categories.json" in line


def test_a_missing_image_and_files_that_are_no_images(capsys, trained, tmp_path):
    missing, text, folder = tmp_path / "missing.png", tmp_path / "text.png", tmp_path / "folder"
    text.write_text("no image")
    folder.mkdir()
    predict = ["predict", f"--workdir={trained}", f"--output={tmp_path / 'out'}"]
    assert f"{missing}: cannot be read (No such file or directory)" in error_line(capsys, [*predict, missing])
    assert f"{text}: cannot be decoded as an image" in error_line(capsys, [*predict, text])
    assert f"{folder}: the folder holds no image and no video" in error_line(capsys, [*predict, folder])
    assert not (tmp_path / "out").exists()


def test_predict_draws_and_writes_coco_results(capsys, trained, tmp_path):
    images = [write_image(tmp_path / "7.png", 60, 90), write_image(tmp_path / "b.jpg", 130, 40)]
    output = tmp_path / "out"
    options = [f"--workdir={trained}", f"--output={output}", "--min-score=0"]
    override = "--config.inference.max_detections=5"
    assert main(["predict", *map(str, images), *options, override]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"{images[0]}: 5 detections, 5 drawn (score at least 0): {output / '7.png'}" in printed.out
    for name, height, width in (("7.png", 60, 90), ("b.png", 130, 40)):  # a drawn image may be enlarged
        shape = cv2.imread(str(output / name)).shape
        assert shape[0] * width == shape[1] * height
    results = json.loads((output / "results.json").read_text())
    assert [result["file_name"] for result in results] == ["7.png"] * 5 + ["b.jpg"] * 5
    assert [result["image_id"] for result in results] == [1] * 5 + [2] * 5
    assert {result["category_id"] for result in results} <= {10, 20, 30}
    for result in results:
        x, y, width, height = result["bbox"]
        limits = (90, 60) if result["image_id"] == 1 else (40, 130)
        assert min(x, y, width, height) >= 0
        assert x + width <= limits[0] + 1e-4
        assert y + height <= limits[1] + 1e-4


def test_invalid_test_scales(capsys, trained, tmp_path):
    image = write_image(tmp_path / "7.png", 60, 90)
    predict = ["predict", str(image), f"--workdir={trained}", f"--output={tmp_path / 'out'}"]
    line = error_line(capsys, [*predict, "--config.inference.test_scales=(1.0, -2)"])
    assert "config.inference.test_scales[1]=-2: must be from 0.01 to 100" in line
    line = error_line(capsys, [*predict, "--config.inference.test_scales=()"])
    assert "config.inference.test_scales=(): must have a scale" in line
    line = error_line(capsys, [*predict, "--config.inference.test_scales=0.5"])
    assert "config.inference.test_scales=0.5: must be tuple[float, ...]" in line
    assert not (tmp_path / "out").exists()


def test_a_missing_or_foreign_reference_file(capsys, reference_dir, tmp_path):
    line = error_line(capsys, ["verify", "--reference=nowhere.npz"])
    assert line == "error: --reference=nowhere.npz: there is no such file"
    (tmp_path / "text.npz").write_text("no arrays")
    line = error_line(capsys, ["verify", f"--reference={tmp_path / 'text.npz'}"])
    assert f"{tmp_path / 'text.npz'}: is not a readable .npz file" in line
    line = error_line(capsys, ["verify", f"--reference={reference_dir / 'units.npz'}"])
    assert "units.npz: has no entry 'cases'; is it a file of reference values?" in line


@pytest.mark.parametrize(("deviation", "status"), [(1e-9, 0), (1e-3, 1), (float("nan"), 1)])
def test_verify_fails_if_a_row_fails(capsys, monkeypatch, deviation, status):
    monkeypatch.setenv("COLUMNS", "100")
    rows = [Row("good part", 0.0, 0.0), Row("other part", deviation, 1e-6)]
    monkeypatch.setattr(verify, "verify_default", lambda dtype, detectors: iter(rows))
    assert main(["verify", "--dtype=float64"]) == status
    printed = capsys.readouterr().out
    assert "good part" in printed
    assert ("FAILED" in printed) == bool(status)
    assert f"{2 - status} passed, {status} failed in float64" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: command"),
        (["tarin"], "invalid choice: 'tarin'"),
        (["train", TREES], "the following arguments are required: --workdir"),
        (["train", TREES, "--workdir=x", "more"], "unrecognized argument: more"),
        (["train", TREES, "--workdir=x", "--confg.seed=1"], "unrecognized argument: --confg.seed=1"),
        (["train", TREES, "--workdir=x", "--config.seed"], "--config.seed: needs a value"),
        (["predict", "--workdir=x"], "the following arguments are required: IMAGE"),
        (["verify", "--dtype=float16"], "invalid choice: 'float16'"),
    ],
)
def test_an_invalid_command_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last_line
    assert words in last_line


OPTIONS = {
    "train": ["--config FILE", "--workdir DIR", "--profile START:STOP"],
    "evaluate": ["--workdir DIR", "--config FILE", "--checkpoint DIR", "--output DIR", "--backend"],
    "predict": ["--workdir DIR", "--config FILE", "--checkpoint DIR", "--output DIR", "--min-score SCORE"],
    "export": ["--workdir DIR", "--checkpoint DIR", "--output FILE", "--height H", "--width W", "--batch N"],
    "analyze": ["--workdir DIR", "--config FILE", "--output DIR", "--only {correlation,labels,", "--boxes N"],
    "verify": ["--dtype {float64,float32,bfloat16}", "--reference FILE", "--config FILE"],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_lists_all_options(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in OPTIONS[command])
    assert f"python main.py {command} " in text
    assert "--config.optimizer.learning_rate=0.02" in text


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in OPTIONS)
