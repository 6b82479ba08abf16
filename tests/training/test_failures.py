"""Whatever fails around the training steps, the training is saved, and the same command resumes it."""

import errno

import pytest
from tiny_training import assert_same_run

from gfl_jax import files
from gfl_jax.errors import UserError
from gfl_jax.training import loop
from gfl_jax.training.checkpoint import Checkpoints
from gfl_jax.training.loop import train
from gfl_jax.training.metrics_file import MetricsFile
from gfl_jax.training.saving import steps_in

EVERY = 4  # steps between checkpoints of the tiny run; evaluations are after 6 and 12


def failing(function, call, error):
    """Wraps a function so that its `call`-th call raises `error`."""
    calls = iter(range(1, 10_000))

    def wrapper(*args, **kwargs):
        if next(calls) == call:
            raise error
        return function(*args, **kwargs)

    return wrapper


IMAGE = UserError("0001.jpg: cannot be decoded as an image")
FULL = OSError(errno.ENOSPC, "No space left on device")

# What fails, at which of its calls, with which error, and the last step before. One run meets all of them.
POINTS = [
    (files, "_write", 1, FULL, 0),  # config.json
    (files, "_write", 3, FULL, 0),  # data.npz
    (MetricsFile, "append", 2, IMAGE, 2),
    (loop, "detect_source", 1, IMAGE, 6),
    (Checkpoints, "save_best", 1, IMAGE, 6),
    (loop, "save_snapshots", 1, IMAGE, 6),
    (loop, "put_batch", 3, IMAGE, 8),
    (loop, "measure_results", 1, IMAGE, 12),
    (files, "_write", 3, FULL, 12),  # the first image, after config.json and metrics.jsonl
]


def test_a_run_with_every_failure_loses_little_and_is_bit_identical(
    tiny_config, whole_run, tmp_path, monkeypatch
):
    for place, name, call, error, done in POINTS:
        monkeypatch.setattr(place, name, failing(getattr(place, name), call, error))
        with pytest.raises(UserError, match=r"0001\.jpg|No space left on device; free some space there"):
            train(tiny_config, tmp_path)
        monkeypatch.undo()
        newest = max(steps_in(tmp_path / "checkpoints"), default=0)
        assert newest == done if done in (6, 12) else newest >= done - EVERY, name
    train(tiny_config, tmp_path)
    assert_same_run(tmp_path, whole_run, 12)
    assert (tmp_path / "curves.png").is_file()
