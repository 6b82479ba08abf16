"""`main.py analyze` from a checkpoint to the figures, with a tiny detector with random weights."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from training.tiny_training import CONFIG, DETECTOR, change, write_dataset

from gfl_jax import config
from gfl_jax.analysis import analyze as module
from gfl_jax.command_line.main import main
from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.errors import UserError
from gfl_jax.models.network import build_detector
from gfl_jax.training.checkpoint import Checkpoints, claim_workdir
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import create_state

TREES = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'gfl_trees.py'}"
DIRAC = change(CONFIG, detector=change(DETECTOR, box=config.BoxRepresentation(kind="dirac")))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A run whose detector has random weights and whose images all have the same shape."""
    folder = tmp_path_factory.mktemp("analyze")
    experiment = change(
        CONFIG,
        dataset=write_dataset(folder / "data"),
        loader=change(CONFIG.loader, buckets=((64, 96),)),
        inference=config.Inference(score_threshold=0.0, max_detections=20),
    )
    state = create_state(build_detector(DETECTOR), make_optimizer(CONFIG.optimizer, lambda step: 0.1), seed=0)
    claim_workdir(folder / "tiny", experiment)
    checkpoints = Checkpoints(folder / "tiny", keep=1)
    checkpoints.save(state)
    checkpoints.close()
    return folder / "tiny"


@pytest.fixture(scope="module")
def collected(workdir):
    """The measures collected from the run; they are compiled once for all tests."""
    real, kept = module._collect, {}

    def once(run):
        if run.variables is None:
            return real(run)
        if not kept:
            kept["tiny"] = real(run)
        return kept["tiny"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_collect", once)
        yield kept


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def printed_error(capsys, arguments):
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_all_three_analyses(capsys, workdir, collected):
    assert main(["analyze", f"--workdir={workdir}"]) == 0
    output = workdir / "analyze"
    printed = capsys.readouterr().out
    for name in ("correlation", "labels", "distributions_tiny"):
        assert f"{output / name}.png" in printed.replace("\n", "")
        assert cv2.imread(str(output / f"{name}.png")).std() > 0
    correlation = rows_of(output / "correlation.csv")
    assert [(row["run"], row["over"]) for row in correlation] == [
        ("tiny", "positives"),
        ("tiny", "detections"),
    ]
    assert correlation[1]["n"] == "240"  # 20 in each of 12 images
    assert {row["label"] for row in rows_of(output / "labels.csv")} == {"IoU", "centerness"}
    sides = rows_of(output / "distributions_tiny.csv")
    assert sum(float(row["probability"]) for row in sides[:5]) == pytest.approx(1, abs=1e-5)

    detections = collected["tiny"].detections
    source = coco_json_source(*(str(workdir.parent / "data" / name) for name in ("annotations.json", "")))
    # The sides of a box lie at the means of its distributions, clipped to the image.
    means = detections.probabilities @ np.arange(5) * np.tile(detections.strides, 2)
    boxes = np.concatenate([detections.points - means[:, :2], detections.points + means[:, 2:]], axis=1)
    limits = np.tile(source.sizes[detections.images][:, ::-1], 2)
    np.testing.assert_allclose(detections.boxes, np.clip(boxes, 0, limits), atol=1e-3)
    assert np.all(np.diff(detections.scores) <= 0)
    np.testing.assert_allclose(
        np.sort(collected["tiny"].sizes ** 2), np.sort(source.annotations.area), rtol=1e-5
    )


def test_two_runs_and_boxes_by_index(workdir, collected, tmp_path):
    command = ["analyze", f"--workdir={workdir}", str(workdir), f"--output={tmp_path}"]
    assert main([*command, "--only", "correlation", "distributions", "--boxes", "7"]) == 0
    assert {row["run"] for row in rows_of(tmp_path / "correlation.csv")} == {"tiny", "tiny_2"}
    assert {row["box"] for row in rows_of(tmp_path / "distributions_tiny_2.csv")} == {"7"}
    assert not (tmp_path / "labels.csv").exists()


def test_the_index_of_a_missing_box(capsys, workdir, collected, tmp_path):
    command = ["analyze", f"--workdir={workdir}", f"--output={tmp_path}", "--only", "distributions"]
    assert "--boxes=240: there are 240 detections" in printed_error(capsys, [*command, "--boxes", "0", "240"])


def test_labels_without_a_checkpoint(capsys, workdir, tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(
        "from pathlib import Path\nfrom gfl_jax.configuration.config_files import config_from_json\n"
        f"def get_config():\n    return config_from_json(Path({str(workdir / 'config.json')!r}))\n"
    )
    assert main(["analyze", f"--config={file}", f"--output={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert "left out: correlation: needs a trained detector" in printed
    assert "left out: distributions: needs a trained detector" in printed
    assert {row["label"] for row in rows_of(tmp_path / "out" / "labels.csv")} == {"centerness"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["labels.csv", "labels.png"]


@pytest.mark.parametrize("name", ["correlation", "distributions"])
def test_only_labels_are_possible_without_a_checkpoint(capsys, name):
    line = printed_error(capsys, ["analyze", TREES, "--only", name])
    assert line == f"error: --only={name}: needs a trained detector; give its --workdir\n"


def test_neither_a_work_directory_nor_a_config(capsys):
    assert "analyze: no detector is given; give the --workdir of a run" in printed_error(capsys, ["analyze"])


def test_a_missing_second_work_directory(capsys, workdir, tmp_path):
    line = printed_error(capsys, ["analyze", f"--workdir={workdir}", str(tmp_path / "nowhere")])
    assert line.startswith(f"error: {tmp_path / 'nowhere' / 'config.json'}: there is no such file")


def test_dirac_boxes_have_no_distributions(tmp_path):
    with pytest.raises(UserError, match=r"--only=distributions: config\.detector\.box\.kind='dirac' has no"):
        module.analyze([module.Trained("dirac", DIRAC, {}, None)], tmp_path, ["distributions"])
    assert list(tmp_path.iterdir()) == []
