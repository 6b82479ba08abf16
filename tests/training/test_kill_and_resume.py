"""Bar: kill -9 at any moment and start again, and the run ends with the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny_training import assert_same_run

from gfl_jax.config_files import to_json
from gfl_jax.training.metrics_file import read_rows

# Batches come slowly, so that there is time to kill the process between the steps it logs.
SCRIPT = """
import json, sys, time
from gfl_jax import config
from gfl_jax.data.loader import Batches
from gfl_jax.training.loop import train
from tiny_training import CONFIG, change

def slow_next(batches, original=Batches.__next__):
    time.sleep(0.1)
    return original(batches)

Batches.__next__ = slow_next
dataset = config.Dataset(**json.loads(sys.argv[1])["dataset"])
train(change(CONFIG, dataset=dataset), sys.argv[2])
"""


def start(tiny_config, workdir):
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", SCRIPT, to_json(tiny_config), str(workdir)]
    with (workdir.parent / "output.txt").open("a") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def wait_for_step(process, workdir, step):
    end = time.monotonic() + 300
    while not any(row["step"] >= step for row in read_rows(workdir / "metrics.jsonl")):
        assert process.poll() is None, (workdir.parent / "output.txt").read_text()
        assert time.monotonic() < end
        time.sleep(0.005)


def test_killed_runs_end_with_the_same_bits(tiny_config, whole_run, tmp_path):
    """Killed before the first checkpoint, while step 4 or 5 is saved, and near the end."""
    workdir = tmp_path / "killed"
    for step in (2, 4, 10):
        process = start(tiny_config, workdir)
        wait_for_step(process, workdir, step)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        reached = read_rows(workdir / "metrics.jsonl")[-1]["step"]
        assert step <= reached < 12
    process = start(tiny_config, workdir)
    assert process.wait(300) == 0, (tmp_path / "output.txt").read_text()
    assert_same_run(workdir, whole_run, 12)
