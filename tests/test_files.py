"""Storage that fails for a moment, for long, or because it is full."""

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
    """The pauses that were made, none of them real."""
    made = []
    monkeypatch.setattr(files.time, "sleep", made.append)
    return made


def failing(*numbers):
    """An action that fails with these errors before it gives 7."""
    left = list(numbers)

    def action():
        if left:
            raise OSError(left[0], os.strerror(left.pop(0)))
        return 7

    return action


def test_what_passes_is_tried_again_with_longer_and_longer_pauses(pauses, caplog):
    assert retrying(failing(errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "reading a") == 7
    assert pauses == [1, 2, 4]
    assert caplog.messages[0] == "reading a: Input/output error; trying again in 1 s"


def test_what_does_not_pass_is_told_in_a_line(pauses):
    with pytest.raises(UserError, match="reading a: Input/output error, 6 times; look after the storage"):
        retrying(failing(*[errno.EIO] * 6), "reading a")
    assert pauses == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_at_once(pauses, number):
    with pytest.raises(UserError, match=f"writing a: {os.strerror(number)}; make room"):
        retrying(failing(number), "writing a")
    assert pauses == []


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no"), KeyError("a"), UserError("b")])
def test_other_errors_stay_as_they_are(pauses, error):
    def action():
        raise error

    with pytest.raises(type(error)) as caught:
        retrying(action, "reading a")
    assert caught.value is error
    assert pauses == []


def test_errors_of_other_types_are_known_by_the_systems_words():
    assert storage_error(ValueError("RESOURCE_EXHAUSTED: No space left on device [28]")) == errno.ENOSPC
    error = ValueError("a save has failed")
    error.__cause__ = OSError(errno.ESTALE, "stale")
    assert storage_error(error) == errno.ESTALE
    assert storage_error(ValueError("a shape does not fit")) is None


def test_a_file_is_the_old_one_until_it_is_the_whole_new_one(pauses, monkeypatch, tmp_path):
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


def test_pictures_are_read_again(pauses, monkeypatch, coco_tree):
    source = coco_json_source(coco_tree / "annotations" / "instances_val2017.json", coco_tree / "val2017")
    expected = source.read_image(0)
    action, original = failing(errno.ESTALE), files._open_regular
    monkeypatch.setattr(files, "_open_regular", lambda path: action() and original(path))
    assert (source.read_image(0) == expected).all()
    assert pauses == [1]


def test_content_and_name_are_on_disk_before_a_file_counts_as_written(tmp_path, monkeypatch):
    """Else a power failure leaves the new name with nothing in it."""
    calls = []
    for module, name in ((os, "fsync"), (os, "replace")):
        original = getattr(module, name)
        note = lambda *given, name=name, original=original: (calls.append(name), original(*given))[1]  # noqa: E731
        monkeypatch.setattr(module, name, note)
    write_file(tmp_path / "config.json", "{}")
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    MetricsFile(tmp_path / "metrics.jsonl", 0).append({"step": 1})
    assert calls == ["fsync", "replace", "fsync", "fsync"]
