"""The commands that a user runs, on a small `coco/2017` in the official layout."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from gfl_jax.command_line.main import main
from gfl_jax.data.tfds_source import tfds_source
from gfl_jax.evaluation.coco_metrics import evaluate_coco
from gfl_jax.evaluation.results import to_coco_results

CONFIG = """
from gfl_jax.config import *

def get_config():
    return Config(
        name="tiny",
        detector=Detector(
            strides=(8, 16),
            assigner=Assigner(anchor_scale=2.0),
            box=BoxRepresentation(reg_max=4),
            backbone=Backbone(
                "basic", (1, 1, 1), (4, 4, 8), stem="patch4", norm="batch", frozen_stages=0
            ),
            pyramid=Pyramid(8, 2, 2),
            head=Head(8, 1, 2),
        ),
        resize=Resize(short_side=None),
        loader=Loader(batch_size=8, eval_batch_size=8, buckets=((64, 96), (96, 64)), workers=0),
        schedule=Schedule(steps=4, warmup_steps=2),
        run=Run(log_every=1, checkpoint_every=2),
    )
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared_coco, coco_tree):
    """The work directory of a finished `train`."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.py").write_text(CONFIG)
    data = [
        f"--config.dataset.tfds_dir={prepared_coco}",
        f"--config.dataset.eval_json={coco_tree}/annotations/instances_val2017.json",
    ]
    assert main(["train", f"--config={folder}/config.py", f"--workdir={folder}/run", *data]) == 0
    return folder / "run"


def test_train_writes_all_its_files(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert rows[-1]["eval/AP"] >= 0
    assert sorted(int(step.name) for step in (run / "checkpoints").iterdir()) == [2, 4]
    assert [step.name for step in (run / "best").iterdir()] != []
    assert json.loads((run / "categories.json").read_text())[79] == {"id": 90, "name": "toothbrush"}
    assert list((run / "pictures").glob("*.png"))
    assert (run / "curves.png").is_file()
    assert list((run / "tensorboard").iterdir())


def test_train_again_changes_nothing(run):
    before = (run / "metrics.jsonl").read_bytes()
    data = json.loads((run / "config.json").read_text())["dataset"]
    changes = [f"--config.dataset.{name}={data[name]}" for name in ("tfds_dir", "eval_json")]
    assert main(["train", f"--config={run.parent}/config.py", f"--workdir={run}", *changes]) == 0
    assert (run / "metrics.jsonl").read_bytes() == before


def test_evaluate_writes_results_and_metrics(run, capsys):
    assert main(["evaluate", f"--workdir={run}", f"--checkpoint={run}/checkpoints", "--pictures=2"]) == 0
    output = run / "evaluate" / "validation"
    metrics = json.loads((output / "metrics.json").read_text())
    assert len(metrics) == 13  # COCO's 12 metrics and AP90
    results = json.loads((output / "results.json").read_text())
    assert {result["category_id"] for result in results} <= set(range(1, 91))
    assert len(list(output.glob("*.png"))) == 2
    assert str(output) in capsys.readouterr().out


def test_evaluate_overwrites_only_its_own_files(run, tmp_path, capsys):
    folder = json.loads((run / "config.json").read_text())["dataset"]["tfds_dir"]
    mine = tmp_path / Path(tfds_source(folder, "validation").file_names[1]).with_suffix(".png")
    mine.write_bytes(b"mine")
    assert main(["evaluate", f"--workdir={run}", f"--output={tmp_path}"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {mine}: exists already and is not from an earlier run")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


def test_the_reference_backend_gives_the_same_numbers(run):
    read = lambda: json.loads((run / "evaluate" / "validation" / "metrics.json").read_text())  # noqa: E731
    assert main(["evaluate", f"--workdir={run}"]) == 0
    found = read()
    assert main(["evaluate", f"--workdir={run}", "--backend=pycocotools"]) == 0
    assert read() == found


def test_evaluation_in_views(run):
    """Views at half the size and mirrored ones give boxes in the pixels of the original image."""
    read = lambda: json.loads((run / "evaluate" / "validation" / "results.json").read_text())  # noqa: E731
    views = ["--config.inference.test_scales=(0.5, 1.0)", "--config.inference.test_flip=True"]
    assert main(["evaluate", f"--workdir={run}", *views, "--config.inference.score_threshold=0.001"]) == 0
    source = tfds_source(json.loads((run / "config.json").read_text())["dataset"]["tfds_dir"], "validation")
    sizes = dict(zip(source.image_ids.tolist(), source.sizes.tolist(), strict=True))
    assert {r["image_id"] for r in read()} == set(sizes)
    for result in read():
        x, y, width, height = result["bbox"]
        assert min(x, y) >= 0
        assert x + width <= sizes[result["image_id"]][1] + 1e-3
        assert y + height <= sizes[result["image_id"]][0] + 1e-3


def test_predict_draws_and_writes_results(run, coco_tree, tmp_path):
    images = sorted((coco_tree / "val2017").iterdir())[:2]
    command = [
        "predict",
        f"--workdir={run}",
        f"--output={tmp_path}",
        "--config.inference.score_threshold=0.001",
    ]
    assert main([*command, *map(str, images)]) == 0
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == [path.stem for path in images]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {result["image_id"] for result in results} == {int(path.stem) for path in images}
    assert {result["file_name"] for result in results} == {path.name for path in images}


def test_ground_truth_as_detections_is_perfect(prepared_coco, coco_tree):
    source = tfds_source(prepared_coco, "validation")
    results = []
    for i, image_id in enumerate(source.image_ids):
        example = source.example(i)
        keep = ~example.is_crowd
        scores = np.ones(keep.sum())
        results += to_coco_results(
            example.boxes[keep], scores, example.labels[keep], int(image_id), source.category_ids
        )
    metrics = evaluate_coco(coco_tree / "annotations" / "instances_val2017.json", results)
    assert metrics.AP == 1.0


def test_evaluation_counts_each_image_once_for_any_batch_size(run):
    found = []
    for batch_size in (16, 3):  # 3 is rounded up to the 8 devices
        assert main(["evaluate", f"--workdir={run}", f"--config.loader.eval_batch_size={batch_size}"]) == 0
        results = json.loads((run / "evaluate" / "validation" / "results.json").read_text())
        found.append(sorted((r["image_id"], r["category_id"], round(r["score"], 5)) for r in results))
    assert found[0] == found[1]
    assert jax.device_count() == 8
