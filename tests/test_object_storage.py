"""Requirement: a killed run in a bucket resumes bit-identically and evaluates; data and weights there too."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import jax.numpy as jnp
import pytest
from free_port import free_port
from jax.sharding import SingleDeviceSharding
from killed_run import KILLS_ITSELF

from gfl_jax import paths
from gfl_jax.command_line.main import main
from gfl_jax.configuration.config_files import to_json
from gfl_jax.errors import UserError, error_line
from gfl_jax.files import require_writable, writing
from gfl_jax.paths import as_path
from gfl_jax.training.checkpoint import Checkpoints
from gfl_jax.training.metrics_file import MetricsFile, read_rows
from gfl_jax.training.saving import steps_in
from gfl_jax.training.state import TrainState

ROOT = Path(__file__).parents[1]
sys.path.insert(1, str(ROOT / "tests" / "training"))

from tiny_training import CONFIG, assert_same_run, change, write_dataset  # noqa: E402

CONFIG_FILE = f"""{KILLS_ITSELF}
from pathlib import Path
from gfl_jax.configuration.config_files import config_from_json

def get_config():
    return config_from_json(Path(__file__).with_suffix(".json"))
"""


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket on loopback."""
    port = free_port()
    command = [sys.executable, str(ROOT / "tests" / "bucket_server.py"), str(port), "bucket"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # it logs clients that hang up
    address = f"http://127.0.0.1:{port}"
    settings = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_CLOUD_PROJECT": "project",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(UserError):
                require_writable("gs://bucket/try")
                break
            assert time.monotonic() < end
        yield "gs://bucket"
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """A config file of twelve steps on local data."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.py").write_text(CONFIG_FILE)
    config = change(CONFIG, dataset=change(write_dataset(folder / "data"), repeats=4))
    (folder / "config.json").write_text(to_json(config))
    return folder / "config.py"


def run_main(*arguments, **environment):
    """Runs main.py in another process, because other tests may optimize programs. Returns its exit status."""
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return subprocess.run(command, env=os.environ | environment, check=False).returncode


@pytest.fixture(scope="module")
def killed_and_resumed(bucket, config_file, compilation_cache):
    """The work directory of a run in the bucket, on data of the bucket, that was killed and has resumed."""
    for file in (config_file.parent / "data").iterdir():
        (as_path(bucket) / "data" / file.name).write_bytes(file.read_bytes())
    arguments = ["train", f"--config={config_file}", f"--workdir={bucket}/run"]
    for part in ("train", "eval"):
        arguments.append(f"--config.dataset.{part}_json={bucket}/data/annotations.json")
        arguments.append(f"--config.dataset.{part}_images={bucket}/data")
    assert run_main(*arguments, KILL_BEFORE_BATCH="12") == -signal.SIGKILL
    workdir = as_path(f"{bucket}/run")
    assert steps_in(workdir / "checkpoints")[-1] in (6, 8)
    assert read_rows(workdir / "metrics.jsonl")[-1]["step"] >= 6
    assert run_main(*arguments) == 0
    return workdir


def test_a_run_in_a_bucket_is_bit_identical_to_one_on_a_disk(killed_and_resumed, config_file, tmp_path):
    assert run_main("train", f"--config={config_file}", f"--workdir={tmp_path}/run") == 0
    assert_same_run(killed_and_resumed, tmp_path / "run", 12)


def test_commands_work_on_a_run_in_a_bucket(killed_and_resumed, bucket, config_file, tmp_path, capsys):
    run = str(killed_and_resumed)
    assert main(["evaluate", f"--workdir={run}", "--pictures=1"]) == 0
    metrics = json.loads((killed_and_resumed / "evaluate" / "metrics.json").read_text())
    assert metrics["AP"] == read_rows(killed_and_resumed / "metrics.jsonl")[-1]["eval/AP"]
    assert main(["evaluate", f"--workdir={run}", "--pictures=1"]) == 0  # its own files may be replaced
    image = next((config_file.parent / "data").glob("*.png"))
    assert main(["predict", f"--workdir={run}", str(image)]) == 0
    assert (killed_and_resumed / "predict" / image.name).read_bytes().startswith(b"\x89PNG")
    assert main(["export", f"--workdir={run}", f"--output={bucket}/detector", "--platforms", "cpu"]) == 0
    assert json.loads(as_path(f"{bucket}/detector.json").read_text())["categories"] == [
        "red",
        "green",
        "blue",
    ]
    events = [path.name for path in (killed_and_resumed / "tensorboard").iterdir()]
    assert len(events) == 2  # one from before the kill, one from after
    assert not Path("gs:").exists()


def test_a_run_starts_from_weights_in_a_bucket(killed_and_resumed, config_file, tmp_path):
    arguments = [f"--config={config_file}", f"--config.init_from={killed_and_resumed}"]
    assert main(["train", *arguments, f"--workdir={tmp_path}/run", "--config.schedule.steps=1"]) == 0


def test_damaged_and_unfinished_checkpoints_in_a_bucket_are_skipped(bucket, caplog):
    workdir, here = as_path(f"{bucket}/damaged"), SingleDeviceSharding(jnp.zeros(()).device)
    states = [TrainState(jnp.int32(i), {"a": jnp.full(4, i)}, {}, {"b": jnp.zeros(2)}) for i in range(3)]
    with contextlib.closing(Checkpoints(workdir, keep=3)) as checkpoints:
        for state in states:
            checkpoints.save(state, wait=True)
    (workdir / "checkpoints" / "2" / "commit_success.txt").unlink()  # as a killed process leaves it
    manifest = workdir / "checkpoints" / "1" / "variables" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert steps_in(workdir / "checkpoints") == [0, 1]
    with contextlib.closing(Checkpoints(workdir, keep=3)) as checkpoints:
        restored = checkpoints.restore_latest(states[0], here)
    assert restored is not None
    assert int(restored.step) == 0
    assert steps_in(workdir / "checkpoints") == [0]
    assert "variables/manifest.ocdbt is damaged" in caplog.text
    reason = (workdir / "broken_checkpoints" / "checkpoints_1.txt").read_text()
    assert "variables/manifest.ocdbt is damaged" in reason


def test_rows_are_in_a_bucket_after_flush(bucket):
    path = as_path(f"{bucket}/rows.jsonl")
    file = MetricsFile(path, 0)
    file.append({"step": 1})
    file.flush()
    assert read_rows(path) == [{"step": 1}]
    assert MetricsFile(path, 0).rows == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gs://", "names no bucket"),
        ("gs:///run", "names no bucket"),
        ("gs:/bucket/run", "gs:/ is not supported"),
        ("s3://bucket/run", "s3:// is not supported"),
        ("file:///tmp/run", "file:/// is not supported"),
        ("", "is not a valid path"),
        ("a\0b", "is not a valid path"),
    ],
)
def test_invalid_paths_are_errors(text, message):
    with pytest.raises(UserError, match=message):
        as_path(text)


def test_files_that_cannot_be_in_a_bucket_are_errors_at_once(bucket, trained, config_file, tmp_path, capsys):
    def error(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    train = ("train", f"--config={config_file}", f"--workdir={tmp_path}/run")
    assert "must be on this machine" in error(*train, "--config.dataset.tfds_dir=gs://bucket/coco/1.0.0")
    assert "Python files must be" in error("train", "--config=gs://bucket/a.py", f"--workdir={tmp_path}/run")
    assert "inputs must be on this machine" in error("predict", f"--workdir={trained}", "gs://bucket/1.jpg")
    video = tmp_path / "a.mp4"
    video.write_bytes(b"none")
    output = f"--output={bucket}/drawn"
    assert "drawn videos must be" in error("predict", f"--workdir={trained}", output, video)
    assert "gs://none/run: cannot be written" in error(*train[:2], "--workdir=gs://none/run")
    assert not (tmp_path / "run").exists()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(paths, "NEEDED", {"no_such_library": "no-such-library==1"})
    with pytest.raises(UserError, match=r"needs no_such_library; pip install no-such-library==1"):
        as_path("gs://bucket/run")


def test_the_extra_installs_the_needed_libraries():
    project, tests = (ROOT / "pyproject.toml").read_text(), (ROOT / "requirements-dev.txt").read_text()
    for package in paths.NEEDED.values():
        assert f'"{package}"' in project
        assert f"\n{package}\n" in tests


@pytest.mark.parametrize(
    "error",
    [aiohttp.ClientError("cannot connect"), ValueError("UNAVAILABLE: Error writing gs://bucket/a")],
)
def test_a_bucket_that_does_not_answer_is_a_one_line_error(error):
    def fail():
        raise error

    with pytest.raises(UserError, match=r"^gs://bucket/a: cannot be written .*check the storage"):
        writing(fail, "gs://bucket/a: cannot be written")
    with pytest.raises(type(error)):
        writing(fail, "/a: cannot be written")


def test_errors_of_storage_libraries_are_one_line():
    error = aiohttp.ClientError("Cannot connect to host storage.googleapis.com")
    assert "Cannot connect to host" in error_line(error)
    assert "check network and credentials" in error_line(error)
