"""Storage that fails temporarily, fails permanently, or is full."""

import errno
import os

import pytest

from gfl_jax import files
from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.errors import UserError
from gfl_jax.files import retrying, storage_error, write_file
from gfl_jax.training.metrics_file import MetricsFile


@pytest.fixture
def pauses(monkeypatch):
    """The requested pauses; none of them is real."""
    made = []
    monkeypatch.setattr(files.time, "sleep", made.append)
    return made


def failing(*numbers):
    """An action that fails with each of these errors once and then returns 7."""
    left = list(numbers)

    def action():
        if left:
            raise OSError(left[0], os.strerror(left.pop(0)))
        return 7

    return action


def test_temporary_errors_are_retried_with_growing_pauses(pauses, caplog):
    assert retrying(failing(errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "reading a") == 7
    assert pauses == [1, 2, 4]
    assert caplog.messages[0] == "reading a: Input/output error; trying again in 1 s"


def test_permanent_errors_become_a_user_error(pauses):
    with pytest.raises(UserError, match="reading a: Input/output error, 6 times; check the storage"):
        retrying(failing(*[errno.EIO] * 6), "reading a")
    assert pauses == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_at_once(pauses, number):
    with pytest.raises(UserError, match=f"writing a: {os.strerror(number)}; free some space"):
        retrying(failing(number), "writing a")
    assert pauses == []


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no"), KeyError("a"), UserError("b")])
def test_other_errors_are_not_changed(pauses, error):
    def action():
        raise error

    with pytest.raises(type(error)) as caught:
        retrying(action, "reading a")
    assert caught.value is error
    assert pauses == []


def test_errors_of_other_types_are_recognized_by_their_text():
    assert storage_error(ValueError("RESOURCE_EXHAUSTED: No space left on device [28]")) == errno.ENOSPC
    error = ValueError("a save has failed")
    error.__cause__ = OSError(errno.ESTALE, "stale")
    assert storage_error(error) == errno.ESTALE
    assert storage_error(ValueError("a shape does not fit")) is None


def test_a_file_is_the_old_one_until_the_new_one_is_complete(pauses, monkeypatch, tmp_path):
    path = tmp_path / "folder" / "a.txt"
    write_file(path, "old")
    full, replace = failing(errno.ENOSPC), failing(errno.EIO)
    monkeypatch.setattr(files.os, "replace", lambda *_: full())
    with pytest.raises(UserError, match=r"a\.txt: cannot be written: No space left on device"):
        write_file(path, "new")
    assert path.read_text() == "old"
    original = os.rename
    monkeypatch.setattr(files.os, "replace", lambda *paths: replace() and original(*paths))
    write_file(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]
    assert pauses == [1]


def test_images_are_read_again(pauses, monkeypatch, coco_tree):
    source = coco_json_source(coco_tree / "annotations" / "instances_val2017.json", coco_tree / "val2017")
    expected = source.read_image(0)
    action, original = failing(errno.ESTALE), files._open_regular
    monkeypatch.setattr(files, "_open_regular", lambda path: action() and original(path))
    assert (source.read_image(0) == expected).all()
    assert pauses == [1]


def test_content_and_name_are_on_disk_before_a_file_counts_as_written(tmp_path, monkeypatch):
    """Otherwise a power failure could leave an empty file under the new name."""
    calls = []
    for module, name in ((os, "fsync"), (os, "replace")):
        original = getattr(module, name)
        spy = lambda *given, name=name, original=original: (calls.append(name), original(*given))[1]  # noqa: E731
        monkeypatch.setattr(module, name, spy)
    write_file(tmp_path / "config.json", "{}")
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    MetricsFile(tmp_path / "metrics.jsonl", 0).append({"step": 1})
    assert calls == ["fsync", "replace", "fsync", "fsync"]
