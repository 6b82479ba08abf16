"""Requirements: several real processes equal one, and a run resumes with another number of processes."""

import shutil
from operator import itemgetter

import numpy as np
import pytest
from several_processes import launch, recorded_images, wait
from tiny_training import change, read_metrics, write_dataset

from gfl_jax.data.loader import make_source
from gfl_jax.data.plan import train_plan
from gfl_jax.training.checkpoint import steps_in

STEPS, STOP_AT = 10, 6  # after the first evaluation and its checkpoint


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory):
    """The config with thirteen images: neither the batch nor the processes divide them."""
    dataset = change(write_dataset(tmp_path_factory.mktemp("thirteen"), count=13), repeats=4)
    schedule = change(tiny_config.schedule, steps=STEPS)
    run = change(tiny_config.run, evaluate_every=5, checkpoint_every=100)
    return change(tiny_config, dataset=dataset, schedule=schedule, run=run, precision="float64")


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory, compilation_cache):
    """The work directory of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    wait(launch(config, workdir, 1, 4), workdir)
    return workdir


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory, compilation_cache):
    """The work directory of two processes with two devices each, of which one was asked to stop; the step."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    wait(launch(config, workdir, 2, 2, STOP_AT), workdir)
    evaluated, step = steps_in(workdir / "checkpoints")
    assert evaluated == 5 < STOP_AT <= step < STEPS
    return workdir, step


def planned_images(config):
    """Returns {step: the images of the global batch} from the plan."""
    source = make_source(config, "train")
    plan = [*train_plan(source.sizes, config, 0)]
    plan += train_plan(source.sizes, config, 1)
    return {step: plan[step].positions.tolist() for step in range(STEPS)}


def assert_same_numbers(workdir, expected, tolerance):
    """Checks that losses agree within a relative tolerance, and evaluations exactly."""
    found, wanted = (sorted(read_metrics(path), key=itemgetter("step")) for path in (workdir, expected))
    assert [sorted(row) for row in found] == [sorted(row) for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        if "eval/AP" in row:
            assert row == other
        else:
            np.testing.assert_allclose([row[name] for name in other], list(other.values()), rtol=tolerance)


def test_two_processes_with_two_devices_equal_one_with_four(alone, stopped, config, tmp_path):
    workdir, step = tmp_path / "run", stopped[1]
    shutil.copytree(stopped[0], workdir)
    wait(launch(config, workdir, 2, 2), workdir)
    assert_same_numbers(workdir, alone, 1e-9)
    planned = planned_images(config)
    assert recorded_images(alone, 1, 4) == planned
    first, second = recorded_images(stopped[0], 2, 2), recorded_images(workdir, 2, 2)
    assert {s: first[s] for s in range(step)} | {s: second[s] for s in range(step, STEPS)} == planned


def test_a_run_resumes_with_other_numbers_of_processes_and_devices(alone, stopped, config, tmp_path):
    planned = planned_images(config)
    runs = {}
    for processes, devices in ((1, 4), (4, 1)):
        workdir = tmp_path / f"{processes}_{devices}"
        shutil.copytree(stopped[0], workdir)
        runs[workdir] = launch(config, workdir, processes, devices)
    for workdir, started in runs.items():
        wait(started, workdir)
        assert_same_numbers(workdir, alone, 1e-9)
        processes, devices = map(int, workdir.name.split("_"))
        images = recorded_images(workdir, processes, devices)
        assert images == {s: planned[s] for s in range(stopped[1], STEPS)}
