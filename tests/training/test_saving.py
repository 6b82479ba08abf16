"""Checkpoints on storage that fails: what remains on disk, and which messages appear."""

import errno
import os

import numpy as np
import pytest
from test_checkpoint import assert_same, make_state, restore

from gfl_jax import files
from gfl_jax.errors import UserError
from gfl_jax.training import checkpoint
from gfl_jax.training.checkpoint import Checkpoints, steps_in
from gfl_jax.training.metrics_file import MetricsFile, read_rows


@pytest.fixture
def storage(monkeypatch):
    """Storage that raises `errors`, one after the other, when the last file of a checkpoint is written."""

    class Storage:
        errors = ()
        pauses = ()

        def write(self, folder):
            if self.errors:
                number, *self.errors = self.errors
                raise OSError(number, os.strerror(number))
            original(folder)

        def sleep(self, seconds):
            self.pauses += (seconds,)

    storage, original = Storage(), checkpoint.write_checksums
    monkeypatch.setattr(checkpoint, "write_checksums", storage.write)
    monkeypatch.setattr(files.time, "sleep", storage.sleep)
    return storage


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_background_save_is_reported_at_the_next_save(storage, tmp_path, caplog, capfd):
    """The next save then waits until it is on disk. Only after that an older checkpoint is deleted."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(make_state(10), wait=True)
    storage.errors = [errno.EIO, errno.EIO, errno.ESTALE]
    checkpoints.save(make_state(20))
    checkpoints.save(make_state(30))
    assert names(tmp_path / "checkpoints") == ["30"]
    assert storage.pauses == (1, 2)
    folder = tmp_path / "checkpoints"
    assert caplog.messages == [
        f"{folder}: a checkpoint was not written: Input/output error",
        f"{folder}: a checkpoint cannot be written: Input/output error; trying again in 1 s",
        f"{folder}: a checkpoint cannot be written: Stale file handle; trying again in 2 s",
    ]
    checkpoints.save(make_state(40))
    checkpoints.close()
    assert steps_in(folder) == [40]
    assert_same(restore(tmp_path, make_state(0)), make_state(40))
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_a_one_line_error_and_the_last_checkpoint_stays(storage, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(make_state(10), wait=True)
    storage.errors = [errno.ENOSPC]
    with pytest.raises(UserError) as caught:
        checkpoints.save(make_state(20), wait=True)
    assert str(caught.value) == (
        f"{tmp_path}/checkpoints: a checkpoint cannot be written: No space left on device; free some space "
        "there, then rerun the same command (the last good one is 10)"
    )
    checkpoints.close()
    assert storage.pauses == ()
    assert names(tmp_path / "checkpoints") == ["10"]
    assert_same(restore(tmp_path, make_state(0)), make_state(10))


def test_the_best_checkpoint_is_on_disk_when_the_call_returns(storage, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    storage.errors = [errno.EIO]
    assert checkpoints.save_best(make_state(5), 0.3)
    assert names(tmp_path / "best") == ["5"]
    storage.errors = [errno.ENOSPC]
    with pytest.raises(UserError, match=r"best: a checkpoint cannot be written: No space .* one is 5\)"):
        checkpoints.save_best(make_state(6), 0.4)
    checkpoints.close()
    assert names(tmp_path / "best") == ["5"]


def test_closing_warns_of_a_failed_save(storage, tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, keep=1)
    storage.errors = [errno.ENOSPC]
    checkpoints.save(make_state(10))
    checkpoints.close()
    assert caplog.messages == [
        f"{tmp_path}/checkpoints: a checkpoint was not written: No space left on device"
    ]
    assert names(tmp_path / "checkpoints") == []


def test_other_storage_errors_are_raised_at_once(storage, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    storage.errors = [errno.EACCES]
    with pytest.raises(
        UserError, match=r"a checkpoint cannot be written .Permission denied.*there is none yet"
    ):
        checkpoints.save(make_state(10), wait=True)
    assert storage.pauses == ()
    checkpoints.close()


def test_a_partly_written_row_is_rewritten(storage, monkeypatch, tmp_path):
    rows = [{"step": step, "loss": float(np.float32(1 / (step + 1)))} for step in range(4)]
    file = MetricsFile(tmp_path / "metrics.jsonl", last_step=0)
    append, attempts = MetricsFile._append, []

    def torn(self, line):
        attempts.append(line)
        append(self, line[: len(line) // 2] if len(attempts) == 2 else line)
        if len(attempts) == 2:
            raise OSError(errno.EIO, "torn")

    monkeypatch.setattr(MetricsFile, "_append", torn)
    for row in rows:
        file.append(row)
    assert len(attempts) == 5
    assert read_rows(tmp_path / "metrics.jsonl") == rows
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
