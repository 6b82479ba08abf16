"""Requirement: `main.py compare` is killed, resumes, and ends with the same table."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from killed_run import KILLS_ITSELF

from gfl_jax.training.log import TIME_COLUMNS
from gfl_jax.training.metrics_file import read_rows

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
from gfl_jax.comparison.rows import Row
from gfl_jax.config import *

TITLE = "A small table"
ROWS = (Row("beta 2", "ATSS", {"beta": 2.0}),)


def get_config(beta: float, dataset: str) -> Config:
    annotations = f"{dataset}/trees.json"
    return Config(
        name="small",
        detector=Detector(
            num_classes=1,
            strides=(8,),
            assigner=Assigner(anchor_scale=2.0),
            classification=ClassificationLoss(beta=beta),
            box=BoxRepresentation(kind="dirac"),
            backbone=Backbone("basic", (1, 1), (4, 4), stem="patch4", norm="batch", frozen_stages=0),
            pyramid=Pyramid(4, 1, 1),
            head=Head(4, 1, 2),
        ),
        resize=Resize(short_side=None),
        dataset=Dataset("", "", "", annotations, dataset, annotations, dataset, repeats=100),
        loader=Loader(batch_size=1, eval_batch_size=1, buckets=((96, 128),), workers=0),
        schedule=Schedule(steps=100, warmup_steps=5),
        run=Run(log_every=1, checkpoint_every=10, evaluate_every=100),
    )
"""


def run(folder, workdir, kill_before_batch=0):
    """Runs a process that compares two runs of configs/table_small.py in `folder`. Returns its status."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "KILL_BEFORE_BATCH": str(kill_before_batch),
    }
    command = [sys.executable, str(ROOT / "main.py"), "compare", "--table=small", "--seeds=2"]
    command += [f"--dataset={ROOT / 'tests' / 'data' / 'trees'}", f"--workdir={workdir}"]
    with (folder / "output.txt").open("a") as output:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output, check=False)
    return done.returncode


def output(folder):
    return (folder / "output.txt").read_text()


def numbers(workdir):
    rows = read_rows(workdir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in rows]


def test_a_comparison_killed_in_its_second_run_ends_with_the_same_table(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "table_small.py").write_text(KILLS_ITSELF + TABLE)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # The first run takes 100 batches, and some for its evaluation.
    assert run(tmp_path, killed, kill_before_batch=120) == -signal.SIGKILL, output(tmp_path)
    assert 10 < read_rows(killed / "2.0_seed_1" / "metrics.jsonl")[-1]["step"] < 20
    assert (killed / "2.0_seed_0" / "result.json").is_file()
    assert not (killed / "2.0_seed_1" / "result.json").exists()
    first = (killed / "2.0_seed_0" / "metrics.jsonl").read_bytes()

    shutil.copytree(killed / "compiled", whole / "compiled")
    for workdir in (killed, whole):
        assert run(tmp_path, workdir) == 0, output(tmp_path)
    assert (killed / "2.0_seed_0" / "metrics.jsonl").read_bytes() == first
    for name in ("2.0_seed_0", "2.0_seed_1"):
        assert numbers(killed / name) == numbers(whole / name)
    for name in ("results.csv", "table.md", "table.txt"):
        assert (killed / name).read_text() == (whole / name).read_text()
    assert len((killed / "results.csv").read_text().splitlines()) == 3
    assert "seeds: 2" in (killed / "table.md").read_text()
