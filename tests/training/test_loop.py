import gzip
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import optax
import pytest
from tiny_training import DETECTOR, assert_same_run, change, read_metrics, read_state

from gfl_jax.configuration.overrides import override
from gfl_jax.data.loader import make_source, train_batches
from gfl_jax.data.plan import evaluation_plan
from gfl_jax.errors import UserError
from gfl_jax.evaluation import evaluate
from gfl_jax.models.network import build_detector
from gfl_jax.training import lease, loop
from gfl_jax.training.checkpoint import load_variables, steps_in
from gfl_jax.training.loop import NonFiniteLossError, train
from gfl_jax.training.metrics_file import read_rows
from gfl_jax.training.start import start_from_file
from gfl_jax.training.state import create_state


class Tampered:
    """Batches that call a function before one step. The function may change the batch."""

    def __init__(self, batches, start_step, at_step, tamper):
        self.batches, self.step, self.at_step, self.tamper = batches, start_step, at_step, tamper

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.batches.close()

    def __next__(self):
        self.step += 1
        batch = next(self.batches)
        return self.tamper(batch) if self.step == self.at_step else batch


@pytest.fixture
def tamper(monkeypatch):
    """A function that makes the loop call another one when it fetches the batch of a step (from 1)."""

    def at_step(step, function):
        def tampered(source, config, start_step, *hosts):
            return Tampered(train_batches(source, config, start_step, *hosts), start_step, step, function)

        monkeypatch.setattr(loop, "train_batches", tampered)

    return at_step


def send(number):
    def act(batch):
        os.kill(os.getpid(), number)
        return batch

    return act


def test_a_whole_run_writes_all_its_files(whole_run, tiny_config):
    rows = read_metrics(whole_run)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "eval/AP" in row] == [6, 12]
    times = read_rows(whole_run / "metrics.jsonl")
    assert [row["step"] for row in times if row["time/evaluation"] > 0] == [6, 7, 12]
    assert [row["step"] for row in times if row["time/checkpoint"] > 0] == [5, 6, 9, 12]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert all(value == float(np.float32(value)) for value in losses)
    assert steps_in(whole_run / "checkpoints") == [6, 8, 12]  # before each evaluation too
    best = max((row for row in rows if "eval/AP" in row), key=lambda row: row["eval/AP"])["step"]
    assert steps_in(whole_run / "best") == [best]
    snapshots = sorted(path.name for path in (whole_run / "pictures").iterdir())
    assert snapshots == [f"step_{s:07d}_image_{i}.png" for s in (6, 12) for i in (1, 2, 3, 4)]
    assert json.loads((whole_run / "config.json").read_text())["name"] == "tiny"
    assert list((whole_run / "tensorboard").glob("events.out.tfevents.*"))


def test_a_finished_run_returns_its_metrics_when_started_again(whole_run, tiny_config, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run, workdir)
    with pytest.raises(UserError, match="--profile=13:14: this run has 12 steps"):
        train(tiny_config, workdir, profile_steps=range(13, 14))
    metrics = train(tiny_config, workdir)
    last = read_metrics(whole_run)[-1]
    assert metrics == {name[5:]: value for name, value in last.items() if name.startswith("eval/")}
    assert_same_run(workdir, whole_run, 12)


@pytest.mark.parametrize(("number", "at_step"), [(signal.SIGTERM, 6), (signal.SIGINT, 9)])
def test_a_stopped_run_resumes_bit_identically(
    tiny_config, whole_run, tmp_path, tamper, capsys, number, at_step
):
    """The step is finished after the signal. An evaluation that was due runs at the next start."""
    handler = signal.getsignal(number)
    tamper(at_step, send(number))
    assert train(tiny_config, tmp_path) == {}
    assert signal.getsignal(number) is handler
    assert steps_in(tmp_path / "checkpoints")[-1] == at_step
    assert not [row for row in read_metrics(tmp_path) if "eval/AP" in row and row["step"] == at_step]
    assert "step 0/12  starting: 12 steps of " in capsys.readouterr().out
    train(tiny_config, tmp_path)
    assert f"step {at_step}/12  resuming: {12 - at_step} steps of " in capsys.readouterr().out
    assert_same_run(tmp_path, whole_run, 12)
    train(tiny_config, tmp_path)
    assert "step 12/12  this run has ended" in capsys.readouterr().out


def test_a_profile_has_the_given_steps_and_changes_no_number(tiny_config, whole_run, tmp_path, tamper):
    tamper(6, send(signal.SIGTERM))
    train(tiny_config, tmp_path, profile_steps=range(3, 5))
    assert read_metrics(tmp_path) == [row for row in read_metrics(whole_run) if row["step"] <= 6][:6]
    (file,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
    assert steps == ["3", "4"]
    assert sum(event.get("name") == "input" for event in events) == 2


def test_a_non_finite_loss_stops_the_run_and_names_its_images(tiny_config, tmp_path, tamper):
    names = []

    def spoil(batch):
        names.extend(f"image_{i + 1}.png" for i in batch.indices)
        boxes = np.full_like(batch.boxes, 1e20) * [-1, -1, 1, 1]  # their areas overflow
        return change(batch, boxes=boxes.astype(np.float32))

    tamper(6, spoil)
    with pytest.raises(NonFiniteLossError, match="step 6: the loss or its gradient is not finite") as caught:
        train(tiny_config, tmp_path)
    message = str(caught.value)
    assert all(name in message for name in names)
    assert f"the last good checkpoint is {tmp_path}/checkpoints/4" in message
    # The advice works: the same --workdir would refuse these fields.
    assert "start another --workdir with a lower config.optimizer.learning_rate" in message
    assert "config.init_from set to that checkpoint" in message
    lower = override(tiny_config, {"optimizer.learning_rate": 0.01})
    with pytest.raises(UserError, match="another configuration"):
        train(lower, tmp_path)
    started = start_from_file(
        create_state(build_detector(DETECTOR), optax.sgd(0.1), seed=5), f"{tmp_path}/checkpoints/4", DETECTOR
    )
    jax.tree.map(np.testing.assert_array_equal, started.variables, load_variables(tmp_path))
    assert "\n" not in message
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert steps_in(tmp_path / "checkpoints") == [4]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(read_state(tmp_path, 4)))


def test_starting_from_another_runs_checkpoint(tiny_config, whole_run, tmp_path, tamper):
    tamper(2, send(signal.SIGTERM))
    train(change(tiny_config, init_from=str(whole_run)), tmp_path)
    started = load_variables(tmp_path)["params"]["backbone"]["conv1"]["kernel"]
    origin = load_variables(whole_run)["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_allclose(started, origin, atol=0.1)
    first = read_state(whole_run, 6)["variables"]["params"]["backbone"]["conv1"]["kernel"]
    assert np.abs(started - origin).max() < np.abs(started - first).max()


def test_another_configuration_is_refused_and_changes_nothing(tiny_config, whole_run):
    before = read_metrics(whole_run)
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate"):
        train(override(tiny_config, {"optimizer.learning_rate": 0.5}), whole_run)
    assert read_metrics(whole_run) == before


def test_batches_that_the_devices_do_not_divide_are_refused_at_once(tiny_config, tmp_path):
    with pytest.raises(UserError, match=r"config\.loader\.batch_size=7: .* multiple of 8"):
        train(override(tiny_config, {"loader.batch_size": 7}), tmp_path / "run")
    with pytest.raises(UserError, match=r"config\.optimizer\.accumulate=2: does not divide the 1 images"):
        train(override(tiny_config, {"optimizer.accumulate": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_signal_stops_an_evaluation_and_the_next_start_repeats_it(
    tiny_config, whole_run, tmp_path, monkeypatch
):
    evaluated = []

    def stop_after_the_first_batch(indices, *rest):
        evaluated.append(indices)
        os.kill(os.getpid(), signal.SIGTERM)
        return to_results(indices, *rest)

    to_results = evaluate._to_results
    monkeypatch.setattr(evaluate, "_to_results", stop_after_the_first_batch)
    stop = loop.StopRequest()
    assert train(tiny_config, tmp_path, stop) == {}
    monkeypatch.undo()
    assert stop.status == 143
    assert len(evaluated) == 1 < len(evaluation_plan(make_source(tiny_config, "eval").sizes, tiny_config))
    assert steps_in(tmp_path / "checkpoints") == [4, 6]
    assert not any("eval/AP" in row for row in read_metrics(tmp_path))
    train(tiny_config, tmp_path)
    assert_same_run(tmp_path, whole_run, 12)


def test_a_signal_does_not_wait_for_metrics(tiny_config, whole_run, tmp_path, monkeypatch, capsys):
    def never_ends(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)

    monkeypatch.setattr(loop, "measure_results", never_ends)
    stop = loop.StopRequest()
    assert train(tiny_config, tmp_path, stop) == {}
    monkeypatch.undo()
    assert stop.status == 143
    assert "stopped and saved" in capsys.readouterr().out
    assert steps_in(tmp_path / "checkpoints") == [4, 6]
    train(tiny_config, tmp_path)
    assert_same_run(tmp_path, whole_run, 12)


def test_a_run_stops_writing_after_another_one_has_taken_over(
    tiny_config, whole_run, tmp_path, tamper, monkeypatch
):
    """For example, a run that was cut off for a while, and that the scheduler restarted elsewhere."""

    def take_over(batch):
        lease.Lease(tmp_path)
        return batch

    tamper(6, take_over)
    with pytest.raises(UserError, match=r"lease\.json: another run \(process \d+ on .*\) has taken over"):
        train(tiny_config, tmp_path)
    assert read_metrics(tmp_path)[-1]["step"] == 4
    assert steps_in(tmp_path / "checkpoints") == [4]
    assert not (tmp_path / "pictures").exists()
    monkeypatch.undo()
    train(tiny_config, tmp_path)
    assert_same_run(tmp_path, whole_run, 12)


@pytest.mark.parametrize("content", [None, "", "[]", "\x00"])
def test_a_missing_or_damaged_lease_stops_no_run(tmp_path, content):
    """No other run holds it, and finished work must still be saved."""
    own = lease.Lease(tmp_path)
    (tmp_path / "lease.json").unlink()
    if content is not None:
        (tmp_path / "lease.json").write_text(content)
    own.check()
    lease.Lease(tmp_path)
    with pytest.raises(UserError, match="has taken over"):
        own.check()
