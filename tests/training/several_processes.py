"""Runs the tiny detector in several processes, each with fake devices, that communicate over loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from free_port import free_port

from gfl_jax.configuration.config_files import to_json

# Batches record their images. At step `stop_at` one process is asked to stop.
SCRIPT = """
import contextlib, json, os, signal, sys, time
from pathlib import Path
import jax
from gfl_jax.parallel.distributed import processes
from gfl_jax.parallel.launch import find_launch
from gfl_jax.configuration.config_files import config_from_json
from gfl_jax.training import loop

settings = json.loads(sys.argv[1])

class Recorder:
    def __init__(self, batches, step):
        self.batches, self.step = batches, step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.batches.close()

    def __next__(self):
        batch = next(self.batches)
        with open(settings["records"] + f"_{jax.process_index()}", "a") as file:
            print(json.dumps([self.step, batch.indices.tolist()]), file=file)
        self.step += 1
        if self.step == settings["stop_at"] and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if settings["stop_at"] and self.step >= settings["stop_at"]:
            time.sleep(1)  # jax looks for signals once a second
        return batch

original = loop.train_batches

def recorded_batches(source, config, step, *hosts):
    return Recorder(original(source, config, step, *hosts), step)

loop.train_batches = recorded_batches
found = find_launch(os.environ)
with processes(found, stop_together=True) if found else contextlib.nullcontext():
    loop.train(config_from_json(Path(settings["config"])), settings["workdir"])
"""


def launch(config, workdir, processes, devices, stop_at=None):
    """Starts a run in float64. Returns its processes."""
    port = free_port()
    name = f"{workdir}_{processes}x{devices}"
    Path(f"{name}.json").write_text(to_json(config))
    settings = {"config": f"{name}.json", "workdir": str(workdir), "records": name, "stop_at": stop_at}
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_ENABLE_X64": "True",
    }
    started = []
    for index in range(processes):
        if processes > 1:
            environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
            environment["JAX_NUM_PROCESSES"] = str(processes)
            environment["JAX_PROCESS_ID"] = str(index)
        with open(f"{name}_output_{index}.txt", "a") as output:
            command = [sys.executable, "-c", SCRIPT, json.dumps(settings)]
            started.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    return started


def wait(processes, workdir):
    """Waits for the processes of a run. All must succeed."""
    try:
        statuses = [process.wait(300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    outputs = [path.read_text() for path in workdir.parent.glob(f"{workdir.name}_*_output_*.txt")]
    assert not any(statuses), (statuses, *outputs)


def recorded_images(workdir, processes, devices):
    """Returns {step: the images of the global batch}, merged from the records of all processes."""
    columns = []
    for index in range(processes):
        lines = Path(f"{workdir}_{processes}x{devices}_{index}").read_text().splitlines()
        columns.append(dict(map(json.loads, lines)))
    assert len({tuple(rows) for rows in columns}) == 1
    return {step: np.concatenate([rows[step] for rows in columns]).tolist() for step in columns[0]}
