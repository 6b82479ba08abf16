"""Comparisons without training: which runs start, in which order, what is saved, and the tables."""

import csv
import dataclasses
import io
import json

import jax
import pytest
from rich.console import Console
from training.tiny_training import write_dataset

from gfl_jax.comparison import runs
from gfl_jax.comparison.rows import Row
from gfl_jax.comparison.runs import compare_rows, read_result, write_result
from gfl_jax.comparison.table import cells, comparison_table, csv_text, markdown, mean_and_spread
from gfl_jax.config import Backbone, Config, Detector
from gfl_jax.data.identity import record_of, write_records
from gfl_jax.data.loader import make_source
from gfl_jax.errors import UserError

A_IOU = Row("IoU branch", "ATSS", {"assigner": "atss", "quality": "iou"}, 39.6)
A_NONE = Row("none", "ATSS", {"assigner": "atss", "quality": "none"})
F_IOU = Row("IoU branch", "FCOS", {"assigner": "fcos", "quality": "iou"})
ROWS = (A_IOU, A_NONE, F_IOU)


def metrics(AP, AP50=0.5, AP75=0.25):
    return {"AP": AP, "AP50": AP50, "AP75": AP75, "APs": -1.0}


RESULTS = {
    "atss_iou": [metrics(0.10), metrics(0.12), metrics(0.14)],
    "atss_none": [metrics(0.2)],
    "fcos_iou": [],
}


def test_mean_and_spread_in_percent():
    assert mean_and_spread([]) == "-"
    assert mean_and_spread([0.12345]) == "12.3"
    assert mean_and_spread([0.10, 0.12, 0.14]) == "12.0 ± 2.0"  # the sample standard deviation
    assert mean_and_spread([0.5, 0.5]) == "50.0 ± 0.0"


def test_rows_with_the_same_label_share_a_line():
    headers, lines = cells(ROWS, RESULTS)
    names = [
        "ATSS AP",
        "ATSS AP50",
        "ATSS AP75",
        "ATSS AP on COCO (paper)",
        "FCOS AP",
        "FCOS AP50",
        "FCOS AP75",
    ]
    assert headers == ["seeds: 0 to 3", *names]
    assert lines == [
        ["IoU branch", "12.0 ± 2.0", "50.0 ± 0.0", "25.0 ± 0.0", "39.6", "-", "-", "-"],
        ["none", "20.0", "50.0", "25.0", "-", "-", "-", "-"],
    ]
    assert cells([A_IOU], {"atss_iou": RESULTS["atss_iou"]})[0][0] == "seeds: 3"


def test_markdown_has_the_same_cells():
    assert markdown([A_NONE], {"atss_none": [metrics(0.2)]}) == (
        "| seeds: 1 | ATSS AP | ATSS AP50 | ATSS AP75 |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| none | 20.0 | 50.0 | 25.0 |\n"
    )


def test_the_terminal_shows_the_same_cells():
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(comparison_table("A title", ROWS, RESULTS))
    text = console.export_text()
    headers, lines = cells(ROWS, RESULTS)
    assert "A title" in text
    for line in lines:
        (shown,) = [row for row in text.splitlines() if row.strip().startswith(line[0])]
        assert shown.split() == " ".join(line).split()
    assert all(header in text for header in headers)


def test_csv_has_a_line_for_each_run_with_all_unscaled_metrics():
    lines = list(csv.DictReader(io.StringIO(csv_text(ROWS, RESULTS))))
    assert [(line["row"], line["seed"], float(line["AP"])) for line in lines] == [
        ("atss_iou", "0", 0.1), ("atss_iou", "1", 0.12), ("atss_iou", "2", 0.14), ("atss_none", "0", 0.2)
    ]  # fmt: skip
    assert lines[0]["paper_ap_on_coco_percent"] == "39.6"
    assert lines[3]["paper_ap_on_coco_percent"] == ""
    assert {line["column"] for line in lines} == {"ATSS"}
    assert float(lines[0]["APs"]) == -1
    nothing = csv_text(ROWS, {row.name: [] for row in ROWS})
    assert nothing == "column,label,row,seed,AP,AP50,AP75,paper_ap_on_coco_percent\n"


def make_config(row):
    detector = Detector(num_classes=3, backbone=Backbone(norm="batch", frozen_stages=0))
    return Config(name=row.name, seed=7, detector=detector)


def test_a_result_is_read_only_with_its_configuration(tmp_path):
    config = make_config(A_IOU)
    assert read_result(tmp_path, config) is None
    write_result(tmp_path, config, metrics(1 / 3))
    assert read_result(tmp_path, config) == metrics(1 / 3)
    other = dataclasses.replace(
        config, seed=8, optimizer=dataclasses.replace(config.optimizer, learning_rate=1.0)
    )
    with pytest.raises(UserError) as caught:
        read_result(tmp_path, other)
    assert str(caught.value).startswith(f"{tmp_path}: has the result of another configuration")
    assert "config.seed, config.optimizer.learning_rate;" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"config": {}}', '{"metrics": {}}', "\x00"])
def test_a_broken_result_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json: cannot be read .*; delete the file") as caught:
        read_result(tmp_path, make_config(A_IOU))
    assert "\n" not in str(caught.value)


@pytest.fixture
def training(monkeypatch):
    """Replaces training. Records (name, seed) of the runs in order; run number `stop_at` is stopped."""

    class Training:
        done = ()
        stop_at = None

        def __call__(self, config, folder, stop):
            assert folder.name == f"{config.name}_seed_{config.seed}"
            assert jax.config.jax_compilation_cache_dir == str(folder.parent / "compiled")
            self.done += ((config.name, config.seed),)
            if len(self.done) == self.stop_at:
                stop.status = 143
                return {}
            return metrics(config.seed + len(config.name) / 100)

    fake = Training()
    monkeypatch.setattr(runs, "train", fake)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # keep the caches of other tests
    return fake


JOBS = tuple((row.name, seed) for seed in range(2) for row in ROWS)
WHOLE = {row.name: [metrics(seed + len(row.name) / 100) for seed in range(2)] for row in ROWS}


def test_all_rows_run_with_their_first_seed_before_any_runs_with_its_second(training, tmp_path):
    said = []
    assert compare_rows(ROWS, make_config, 2, tmp_path, said.append) == WHOLE
    assert training.done == JOBS
    assert said[0] == f"run 1 of 6: ATSS, IoU branch, seed 0: {tmp_path}/atss_iou_seed_0"
    assert len(said) == 6


def test_finished_runs_are_not_repeated(training, tmp_path):
    compare_rows(ROWS[:2], make_config, 1, tmp_path, lambda _: None)
    training.done = ()
    assert compare_rows(ROWS, make_config, 2, tmp_path, lambda _: None) == WHOLE
    assert training.done == JOBS[2:]
    training.done, said = (), []
    assert compare_rows(ROWS, make_config, 2, tmp_path, said.append) == WHOLE
    assert training.done == ()
    assert said == []


def test_the_teacher_of_a_row_is_the_run_with_the_same_seed(training, tmp_path):
    student = Row("student", "ATSS", {"assigner": "atss", "quality": "student"}, teacher="atss_iou")
    compare_rows((A_IOU, student), make_config, 2, tmp_path, lambda _: None)
    for seed in (0, 1):
        config = json.loads((tmp_path / f"atss_student_seed_{seed}" / "result.json").read_text())["config"]
        assert config["distillation"]["teacher"] == str(tmp_path / f"atss_iou_seed_{seed}")
        assert config["seed"] == seed
    of_teacher = json.loads((tmp_path / "atss_iou_seed_0" / "result.json").read_text())["config"]
    assert of_teacher["distillation"]["teacher"] == ""


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_stopped_comparison_keeps_its_results_and_resumes(training, tmp_path, stop_at):
    training.stop_at = stop_at
    found = compare_rows(ROWS, make_config, 2, tmp_path, lambda _: None)
    assert training.done == JOBS[:stop_at]
    assert sum(len(runs) for runs in found.values()) == stop_at - 1
    assert all(runs == WHOLE[name][: len(runs)] for name, runs in found.items())
    assert not (tmp_path / "{}_seed_{}".format(*JOBS[stop_at - 1]) / "result.json").exists()
    training.stop_at, training.done = None, ()
    assert compare_rows(ROWS, make_config, 2, tmp_path, lambda _: None) == WHOLE
    assert training.done == JOBS[stop_at - 1 :]


def test_the_results_of_another_configuration_are_refused(training, tmp_path):
    compare_rows(ROWS, make_config, 1, tmp_path, lambda _: None)

    def other(row):
        return dataclasses.replace(make_config(row), precision="bfloat16")

    with pytest.raises(UserError, match=r"atss_iou_seed_0: .* different in config\.precision; give another"):
        compare_rows(ROWS, other, 1, tmp_path, lambda _: None)
    assert json.loads((tmp_path / "atss_iou_seed_0" / "result.json").read_text())["metrics"]["AP"] == 0.08


def test_changed_data_are_an_error_before_the_next_run_is_trained(training, tmp_path):
    """The rows of a table are only comparable on the same data. The path of the data may change."""
    data = write_dataset(tmp_path / "data")
    paths = (data.train_json, data.train_images)

    def on(data):
        return lambda row: dataclasses.replace(make_config(row), dataset=data)

    first = tmp_path / "runs" / "atss_iou_seed_0"
    compare_rows(ROWS[:1], on(data), 1, tmp_path / "runs", lambda _: None)
    (first / "checkpoints" / "4").mkdir(parents=True)
    source = make_source(on(data)(A_IOU), "train")
    write_records(first / "data.npz", {"train": record_of(source)})
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = dataclasses.replace(
        data,
        **{name: value.replace("/data", "/moved") for name, value in vars(data).items() if value in paths},
    )
    compare_rows(ROWS[:2], on(moved), 1, tmp_path / "runs", lambda _: None)
    text = (tmp_path / "moved" / "annotations.json").read_text()
    (tmp_path / "moved" / "annotations.json").write_text(text.replace('"bbox": [', '"bbox": [1', 1))
    with pytest.raises(
        UserError, match=r"is not the data set that .*atss_iou_seed_0 started with: the number of boxes of 1"
    ):
        compare_rows(ROWS, on(moved), 1, tmp_path / "runs", lambda _: None)
    assert training.done == (("atss_iou", 0), ("atss_none", 0))


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_compilation_cache_setting_is_restored(training, tmp_path, seeds):
    """It is restored after a comparison, and after one that fails."""
    before = jax.config.jax_compilation_cache_dir
    compare_rows(ROWS, make_config, seeds, tmp_path, lambda _: None)
    assert jax.config.jax_compilation_cache_dir == before
    with pytest.raises(UserError):
        compare_rows(ROWS, lambda row: Config(name=row.name, init_from="x"), seeds, tmp_path, lambda _: None)
    assert jax.config.jax_compilation_cache_dir == before
