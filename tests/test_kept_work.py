"""Finished work is saved before anything that can fail: metrics, images, tables, other runs."""

import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

from gfl_jax.analysis import analyze as analysis
from gfl_jax.analysis.analyze import analyze
from gfl_jax.command_line.main import main
from gfl_jax.comparison import runs
from gfl_jax.comparison.rows import Row
from gfl_jax.comparison.runs import compare_rows, read_result
from gfl_jax.compilation import report as compilation
from gfl_jax.config import Backbone, Config, Detector
from gfl_jax.errors import UserError
from gfl_jax.evaluation import evaluate, snapshots
from gfl_jax.training.trained import Trained

RESULTS = [{"image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.5}]
METRICS = {"AP": 0.5, "AP50": 0.5, "AP75": 0.5}


def fail(*_args, **_kwargs):
    raise UserError("it failed")


@pytest.fixture
def evaluation(tmp_path, trained, monkeypatch):
    """The arguments of an evaluation of one image, whose detections are `RESULTS`."""
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "1.png")
    names = ("red", "green", "blue")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 60, "width": 80}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    monkeypatch.setattr(evaluate, "detect_source", lambda *_: RESULTS)
    data = [
        f"--config.dataset.eval_json={tmp_path / 'truth.json'}",
        f"--config.dataset.eval_images={tmp_path}",
    ]
    return ["evaluate", f"--workdir={trained}", f"--output={tmp_path / 'out'}", *data]


def test_detections_are_saved_when_the_metrics_fail(evaluation, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("older")
    (tmp_path / "out" / "results.json").write_text(json.dumps([RESULTS[0] | {"score": 0.1}]))
    monkeypatch.setattr(evaluate, "evaluate_coco", fail)
    assert main(evaluation) == 2
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == RESULTS
    assert not (tmp_path / "out" / "metrics.json").exists()  # it would belong to other detections


def test_metrics_are_saved_and_shown_when_an_image_fails(evaluation, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(snapshots, "save_snapshots", fail)
    assert main(evaluation) == 2
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["AP"] == pytest.approx(1)
    captured = capsys.readouterr()
    assert "COCO metrics" in captured.out
    assert captured.err == "error: it failed\n"


EXPERIMENT = Config(name="x", detector=Detector(backbone=Backbone(norm="batch", frozen_stages=0)))
ROWS = [Row(name, "column", {"a": name}) for name in ("good", "bad", "fine")]


@pytest.mark.parametrize("error", [UserError("it failed"), MemoryError(), RuntimeError("RESOURCE_EXHAUSTED")])
def test_a_failed_run_does_not_affect_the_others(tmp_path, monkeypatch, error):
    def train(config, folder, stop):
        if "bad" in folder.name:
            raise error
        folder.mkdir(parents=True)
        return METRICS

    monkeypatch.setattr(runs, "train", train)
    failed = []
    config = EXPERIMENT
    results = compare_rows(ROWS, lambda row: config, 1, tmp_path, lambda _: None, failed=failed)
    assert results == {"good": [METRICS], "bad": [], "fine": [METRICS]}
    assert [line.split(": ")[0] for line in failed] == [str(tmp_path / "bad_seed_0")]
    assert read_result(tmp_path / "fine_seed_0", config) == METRICS
    with pytest.raises(type(error)):  # without `failed`; the other runs are done already
        compare_rows(ROWS, lambda row: config, 1, tmp_path, lambda _: None)


def test_a_comparison_raises_if_all_runs_fail_and_for_a_bug(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", fail)
    with pytest.raises(UserError, match="it failed"):
        compare_rows(ROWS, lambda row: EXPERIMENT, 1, tmp_path, lambda _: None, failed=[])

    def fault(*_args):
        raise KeyError("a bug")

    monkeypatch.setattr(runs, "train", fault)
    with pytest.raises(KeyError):
        compare_rows(ROWS, lambda row: EXPERIMENT, 1, tmp_path, lambda _: None, failed=[])


def test_the_command_names_the_runs_that_failed(tmp_path, monkeypatch, capsys):
    def some(rows, make_config, seeds, workdir, stop, failed):
        failed.append(f"{workdir}/bad: it failed")
        return {row.name: [METRICS] for row in rows}

    monkeypatch.setattr(runs, "compare_rows", some)
    arguments = ["compare", "--table=1", "--dataset=digits", f"--workdir={tmp_path}"]
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/bad: it failed\n"
    assert {path.name for path in tmp_path.iterdir()} == {"table.txt", "table.md", "results.csv"}


def test_a_failed_analysis_does_not_affect_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(analysis, "_collect", lambda run: None if run.name == "good" else fail())
    for name in ("correlation_table", "label_tables", "label_rows"):
        table = analysis.Table(name, ("a",), [(1,)])
        monkeypatch.setattr(analysis, name, lambda *_, t=table: [t] if t.title == "label_tables" else t)
    monkeypatch.setattr(analysis, "plot_correlation", fail)
    monkeypatch.setattr(analysis, "plot_labels", lambda _, path: path.write_text("drawn"))
    found = [Trained(name, Config(name=name), variables={}, classes=None) for name in ("good", "bad")]
    with pytest.raises(UserError, match="it failed"):
        analyze(found, tmp_path, only=["correlation", "labels"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"correlation.csv", "labels.csv", "labels.png"}
    assert f"{tmp_path}/labels.csv" in capsys.readouterr().out


def test_each_program_of_a_report_is_saved_at_once(monkeypatch):
    def compile_part(config, part, *_):
        if part == "inference":
            fail()
        return part

    monkeypatch.setattr(compilation, "_compile_part", compile_part)
    monkeypatch.setattr(compilation.programs, "gradient_bytes", lambda _: 0)
    kept = []
    target = types.SimpleNamespace(devices=jax.devices()[:1], capacity=None)
    with pytest.raises(UserError, match="it failed"):
        compilation.make_report(Config(name="x"), target, images_per_chip=1, keep=kept.append)
    assert [report.parts for report in kept] == [["train"]]
