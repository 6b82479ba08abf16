"""Real processes over loopback: they start, save, stop and end together, also if one of them is lost."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from free_port import free_port
from jax._src import distributed as jax_distributed
from jax._src.lib import _jax

from gfl_jax.training.checkpoint import steps_in

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT = 6  # seconds; on a busy machine a process may send its heartbeats late

# Every process runs a collective in steps of 0.05 s, until a signal arrives.
SCRIPT = """
import os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # as in main.py
import jax
from pathlib import Path
from gfl_jax.parallel import agreement
from gfl_jax.parallel import distributed
from gfl_jax.parallel import launch
from gfl_jax.errors import UserError
scenario, folder = sys.argv[1], Path(sys.argv[2])

def main():
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from gfl_jax.training.stop import StopRequest
    me, count = jax.process_index(), jax.process_count()
    mesh = jax.make_mesh((jax.device_count(),), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())
    total = jax.jit(lambda x: x.sum(), out_shardings=whole)
    ones = jax.make_array_from_process_local_data(split, np.ones((jax.local_device_count(), 5), np.float32))
    assert float(total(ones)) == 5 * jax.device_count()
    assert agreement.from_first([me, "a", 0.1]) == [0, "a", 0.1]
    assert agreement.is_first() == (me == 0)
    if scenario in ("save", "full"):
        save_and_restore(split, whole)
    if scenario == "bad image" and me == 1:
        raise UserError("image.jpg: cannot be decoded")
    if scenario == "memory" and me == 1:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    if scenario == "bad config":
        raise UserError("config.seed: is bad")
    (folder / f"ready_{me}").touch()
    if scenario in ("batches", "metrics"):
        with StopRequest() as stop:
            if scenario == "metrics":
                assert stop.run_unless_stopped(lambda: 7 + me) == 7
                assert stop.run_unless_stopped(lambda: time.sleep(600)) is None
            while not stop.now():
                total(ones).block_until_ready()
                time.sleep(0.05)
        return print("left", stop.status)
    with StopRequest() as stop:
        step = 0
        while not stop.at(step):
            total(ones).block_until_ready()
            time.sleep(0.05)
            step += 1
    print("stopped", step, stop.status)

def save_and_restore(split, whole):
    import numpy as np
    from gfl_jax.training import checkpoint
    from gfl_jax.training.checkpoint import Checkpoints
    from gfl_jax.training.state import TrainState
    rows = np.arange(4 * jax.device_count(), dtype=np.float32).reshape(-1, 2)
    array = jax.make_array_from_callback(rows.shape, split, lambda index: rows[index])
    step = jax.make_array_from_callback((), whole, lambda index: np.int32(7))
    state = TrainState(step, {"a": array}, {"b": array + 1}, {"c": array + 2})
    checkpoints = Checkpoints(folder / "run", 2)
    write = checkpoint.write_checksums
    checkpoint.write_checksums = lambda folder: (time.sleep(0.5), write(folder))
    checkpoints.save(state, wait=scenario == "full")
    checkpoints.save_best(state, 0.5)  # during the other save, which is slow
    if scenario == "full":
        checkpoint.write_checksums = lambda folder: os.write(os.open("/dev/full", os.O_WRONLY), b"a")
        checkpoints.save(state.replace(step=step + 1), wait=True)
    checkpoints.close()
    checkpoints = Checkpoints(folder / "run", 2)
    restored = checkpoints.restore_latest(state, jax.tree.map(lambda x: x.sharding, state))
    checkpoints.close()
    def same(found, expected):
        assert found.sharding == expected.sharding
        for a, b in zip(found.addressable_shards, expected.addressable_shards, strict=True):
            np.testing.assert_array_equal(a.data, b.data)
    jax.tree.map(same, restored, state)

with distributed.processes(
    launch.find_launch(os.environ), int(sys.argv[3]), stop_together=True, start_seconds=int(sys.argv[4])
):
    main()
print("ended")
"""


class Run:
    """Processes that run the script. `outputs` returns their lines, without those of Gloo."""

    def __init__(self, scenario, folder, count, present=None, start_seconds=120):
        self.folder = folder
        address = f"127.0.0.1:{free_port()}"
        self.processes, self.address = {}, address
        for number in range(count) if present is None else present:
            environment = os.environ | {
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(number),
            }
            command = [sys.executable, "-c", SCRIPT, scenario, str(folder)]
            command += [str(HEARTBEAT), str(start_seconds)]
            with (folder / f"output_{number}").open("w") as output:
                self.processes[number] = subprocess.Popen(
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT
                )

    def wait_until_ready(self):
        end = time.monotonic() + 120
        while len(list(self.folder.glob("ready_*"))) < len(self.processes):
            assert time.monotonic() < end, self.outputs()
            assert all(process.poll() is None for process in self.processes.values()), self.outputs()
            time.sleep(0.05)

    def outputs(self):
        texts = {n: (self.folder / f"output_{n}").read_text().splitlines() for n in self.processes}
        return {
            n: [line for line in lines if "connected peer ranks" not in line] for n, lines in texts.items()
        }

    def statuses(self):
        try:
            return {number: process.wait(120) for number, process in self.processes.items()}
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()


# Runs that start side by side, because they mostly wait. Not all start at once, because each process must
# send its heartbeats.
WAVES = (
    {"frozen": ("loop", 3), "killed": ("loop", 2), "alone": ("loop", 2)},
    {"bad image": ("bad image", 2), "memory": ("memory", 2), "bad config": ("bad config", 2)},
    {"save": ("save", 2), "full": ("full", 2)},
    {"batches": ("batches", 2), "metrics": ("metrics", 2)},
)


@pytest.fixture(scope="module")
def find_run(tmp_path_factory):
    """A function that returns the run of a name. Its first call starts the run's wave."""
    started = {}

    def find(name):
        (wave,) = [wave for wave in WAVES if name in wave]
        for other, (scenario, count) in wave.items():
            if other not in started:
                folder = tmp_path_factory.mktemp(other.replace(" ", "_"))
                missing = {"present": [1], "start_seconds": 1} if other == "alone" else {}
                started[other] = Run(scenario, folder, count, **missing)
        return started[name]

    yield find
    for run in started.values():
        for process in run.processes.values():
            process.kill()
            process.wait()


def lost(which, why):
    return [
        f"error: {which} lost ({why}); start all processes again with the same command to resume from the "
        "last checkpoint"
    ]


def test_a_lost_process_ends_the_others_with_a_line_that_names_it(find_run):
    """The process is frozen, not killed: no connection is closed, and only heartbeats are missing."""
    run = find_run("frozen")
    run.wait_until_ready()
    run.processes[1].send_signal(signal.SIGSTOP)
    others = [run.processes[0].wait(120), run.processes[2].wait(120)]
    run.processes[1].kill()
    assert others == [3, 3], run.outputs()
    expected = lost("process 1 of 3 was", f"no heartbeat for {HEARTBEAT} s")
    assert run.outputs() == {0: expected, 1: [], 2: expected}


def test_the_loss_of_the_first_process_is_reported_in_a_line_too(find_run):
    run = find_run("killed")
    run.wait_until_ready()
    run.processes[0].kill()
    assert run.statuses() == {0: -signal.SIGKILL, 1: 3}, run.outputs()
    assert run.outputs()[1] == lost("process 0 of 2 was", "it does not answer")


def test_after_bad_input_of_one_process_all_end_with_its_line_and_status(find_run):
    """Bad input in any process thus never counts as a lost process, after which a run is restarted."""
    run = find_run("bad image")
    assert run.statuses() == {0: 2, 1: 2}, run.outputs()
    assert run.outputs()[1] == ["error: image.jpg: cannot be decoded"]
    assert run.outputs()[0] == ["error: image.jpg: cannot be decoded (process 1 of 2)"]


def test_too_little_memory_on_one_process_is_reported_at_once(find_run):
    """The error is a JaxRuntimeError, like the loss of a process."""
    run = find_run("memory")
    assert run.statuses() == {0: 2, 1: 2}, run.outputs()
    (line,) = run.outputs()[1]
    assert line.startswith("error: not enough memory; lower config.loader.batch_size")
    assert run.outputs()[0] == [f"{line} (process 1 of 2)"]


def test_bad_input_of_all_is_reported_by_all(find_run):
    run = find_run("bad config")
    assert run.statuses() == {0: 2, 1: 2}, run.outputs()
    assert run.outputs() == {number: ["error: config.seed: is bad"] for number in range(2)}


def test_a_full_disk_ends_all_processes_and_the_last_checkpoint_stays(find_run):
    run = find_run("full")
    assert run.statuses() == {0: 2, 1: 2}, run.outputs()
    (line,) = run.outputs()[0]
    assert "a checkpoint cannot be written: No space left on device; free some space there" in line
    assert line.endswith("(the last good one is 7)")
    assert run.outputs()[1] == [f"{line} (process 0 of 2)"]
    assert steps_in(run.folder / "run" / "checkpoints") == [7]


def test_processes_save_stop_at_the_same_step_and_end(find_run):
    """One of them receives Ctrl-C, after a checkpoint of which each has written a part."""
    run = find_run("save")
    run.wait_until_ready()
    run.processes[1].send_signal(signal.SIGINT)
    assert run.statuses() == {0: 0, 1: 0}, run.outputs()
    first, second = run.outputs().values()
    assert first == second
    assert re.fullmatch(r"stopped \d+ 143", first[0])
    assert first[1:] == ["ended"]
    checkpoint = run.folder / "run" / "checkpoints" / "7"
    listed = (checkpoint / "checksums.json").read_text()
    parts = [path for path in checkpoint.rglob("*") if path.is_file() and "ocdbt.process" in str(path)]
    assert {part for path in parts for part in path.parts if part.startswith("ocdbt")} == {
        "ocdbt.process_0",
        "ocdbt.process_1",
    }
    assert all(str(path.relative_to(checkpoint)) in listed for path in parts)


@pytest.mark.parametrize("scenario", ["batches", "metrics"])
def test_processes_leave_an_evaluation_together(find_run, scenario):
    run = find_run(scenario)
    run.wait_until_ready()
    time.sleep(1)
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.statuses() == {0: 0, 1: 0}, run.outputs()
    assert run.outputs() == {0: ["left 143", "ended"], 1: ["left 143", "ended"]}


@pytest.mark.parametrize("name", ["client", "service", "coordinator_address", "num_processes", "process_id"])
def test_private_parts_of_jaxs_state_exist(name):
    assert hasattr(jax_distributed.global_state, name)


@pytest.mark.parametrize("name", ["get_live_nodes", "key_value_dir_get", "key_value_set", "wait_at_barrier"])
def test_private_parts_of_jaxs_client_exist(name):
    assert hasattr(_jax.DistributedRuntimeClient, name)


def test_jaxlib_accepts_a_callback_for_missed_heartbeats():
    assert "missed_heartbeat_callback" in _jax.get_distributed_runtime_client.__doc__


@pytest.mark.parametrize(
    "name", ["_ZTISt8bad_cast", "__cxa_current_exception_type", "_ZSt13set_terminatePFvvE"]
)
def test_parts_of_the_cpp_library_exist(name):
    ctypes.c_char.in_dll(ctypes.CDLL("libstdc++.so.6"), name)


def test_the_callback_ends_the_process_if_jaxlib_can_call_it():
    """The call comes from another thread, while the main thread waits for the lost process."""
    code = "import threading, time; "
    code += "from gfl_jax.parallel.distributed import _end_at_missed_heartbeat as callback; "
    code += "threading.Thread(target=callback, args=('UNAVAILABLE',)).start(); time.sleep(100)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith("error: another process was lost (UNAVAILABLE); start all processes again")


def test_a_process_without_the_others_prints_one_line(find_run):
    run = find_run("alone")
    assert run.statuses() == {1: 3}
    (line,) = run.outputs()[1]
    assert line.startswith("error: not all of the 2 processes started within 1 s")
    assert run.address in line
