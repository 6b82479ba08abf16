"""Requirement: a run that is killed (kill -9) at any moment, wholly or one process, stays bit-identical."""

import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from gfl_jax.configuration.config_files import to_json
from gfl_jax.errors import UserError
from gfl_jax.files import write_file
from gfl_jax.training.metrics_file import MetricsFile

ROOT = Path(__file__).parents[1]
sys.path[1:1] = [str(ROOT / "scripts"), str(ROOT / "tests" / "training")]

import kill_test  # noqa: E402
from tiny_training import CONFIG, change, write_dataset  # noqa: E402

# Batches are slow, to leave time to kill the processes between the steps that they log. Saves are slow, to
# last longer than the 50 ms after which they are hit.
CONFIG_FILE = """
import time
from pathlib import Path
from gfl_jax.configuration.config_files import config_from_json
from gfl_jax.data.loader import Batches

from gfl_jax.training import checkpoint

original, write = Batches.__next__, checkpoint.write_checksums

def slow_next(batches):
    time.sleep(0.1)
    return original(batches)

def slow_write(folder):
    time.sleep(0.3)
    write(folder)

Batches.__next__, checkpoint.write_checksums = slow_next, slow_write

def get_config():
    return config_from_json(Path(__file__).with_suffix(".json"))
"""


def test_a_run_of_two_processes_that_is_killed_twice(tmp_path, monkeypatch, capfd):
    """One kill hits both processes at any moment. The other hits process 0 in a save; process 1 notices."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    config = change(CONFIG, dataset=change(write_dataset(tmp_path / "data"), repeats=4))
    write_file(tmp_path / "config.json", to_json(config))
    write_file(tmp_path / "config.py", CONFIG_FILE)
    arguments = [
        f"--config={tmp_path}/config.py",
        f"--workdir={tmp_path}/runs",
        "--config.run.evaluate_every=99",
    ]
    arguments += ["--kills=2", "--processes=2", "--steps=20", "--checkpoint-every=4", "--heartbeat=4"]
    status = kill_test.main(arguments)
    printed = capfd.readouterr()
    assert status == 0, printed
    assert "after 20 steps all bits of both runs are equal" in printed.out
    assert re.search(r"2 kills, [12] of them in the middle of a save", printed.out)
    output = (tmp_path / "runs" / "killed_1.txt").read_text()
    assert "error: process 0 of 2 was lost" in output
    with pytest.raises(UserError, match="already exists"):
        kill_test.run(kill_test._parser().parse_args([f"--workdir={tmp_path}/runs"]), [])


def test_kills_hit_saves_and_single_processes():
    kills = kill_test.plan_kills(np.random.default_rng(0), 20, 60, 2)
    assert sum(kill.in_save for kill in kills) == 10
    assert [kill.step for kill in kills] == sorted(kill.step for kill in kills)
    assert kills[-1].step < 60
    victims = [kill.victim for kill in kills if kill.in_save]
    assert min(victims.count(victim) for victim in (None, 0, 1)) >= 3


def test_sigterms_are_among_the_kills():
    kills = kill_test.plan_kills(np.random.default_rng(0), 20, 60, 2, terms=10)
    assert [kill.step for kill in kills] == sorted(kill.step for kill in kills)
    terms = [kill for kill in kills if kill.sent == signal.SIGTERM]
    assert len(terms) == 10
    assert {kill.victim for kill in terms} == {None, 0, 1}


def test_differences_are_found(tmp_path):
    for name, loss in (("one", 1.0), ("other", 1.5)):
        folder = tmp_path / name
        folder.mkdir()
        file = MetricsFile(folder / "metrics.jsonl", 0)
        file.append({"step": 1, "loss": 1.0, "seconds": loss})
        file.append({"step": 2, "loss": loss})
    (difference,) = kill_test.differing_rows(tmp_path / "one", tmp_path / "other")
    assert json.dumps({"step": 2, "loss": 1.5}).replace('"', "'") in difference
