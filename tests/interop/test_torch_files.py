"""Files of PyTorch, read without PyTorch. PyTorch 2.13 wrote the files in tests/data/torch."""

import io
import os
import pickle
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gfl_jax.errors import UserError
from gfl_jax.interop import torch_files
from gfl_jax.interop.state_dicts import read_state_dict, write_state_dict
from gfl_jax.interop.torch_files import NotReadableError, Placeholder, read_torch_file, write_torch_file

DATA = Path(__file__).resolve().parents[1] / "data" / "torch"
LAYOUTS = ("zip.pth", "older.pth")

# The events, while `_watched` is set, that reading a file must not cause.
_watched, _happened = [False], []
_ACTIONS = ("import", "exec", "compile", "open", "pickle.find_class", "os.", "subprocess.", "socket.")


def _note(event, arguments):
    if _watched[0] and event.startswith(_ACTIONS):
        _happened.append((event, arguments))


sys.addaudithook(_note)


def read_watched(content):
    """Returns what `read_torch_file` returns, and checks that no forbidden event happened."""
    _happened.clear()
    _watched[0] = True
    try:
        return read_torch_file(content)
    finally:
        _watched[0] = False
        assert _happened == []


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """Reads files once, because imports at the first use are not caused by the content of a file."""
    for name in LAYOUTS:
        read_torch_file((DATA / name).read_bytes())


@pytest.mark.parametrize("name", LAYOUTS)
def test_both_layouts_are_read_bit_identically(name):
    found = read_watched((DATA / name).read_bytes())
    expected = np.load(DATA / "expected.npz")
    state_dict = found["state_dict"]
    assert found["meta"]["epoch"] == 12
    assert isinstance(found["message_hub"], Placeholder)
    assert list(state_dict) == list(expected)
    for key in expected:
        array = state_dict[key].astype(np.float32) if key.startswith("half") else state_dict[key]
        assert (array.shape, array.dtype) == (expected[key].shape, expected[key].dtype)
        assert array.tobytes() == expected[key].tobytes()
    assert set(read_state_dict(DATA / name)) == set(expected)


def test_writing_and_reading_is_bit_identical(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((2, 3, 4), np.float32).transpose(2, 0, 1), "b": np.int64(7)[...]}
    arrays |= {"c": np.zeros((0, 3), np.float32), "d": np.array([np.nan, -0.0, 1e-45], np.float32)}
    write_state_dict(tmp_path / "x.pth", arrays)
    found = read_state_dict(tmp_path / "x.pth")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert found[name].tobytes() == array.tobytes()


def damaged(rng, content):
    """A file with bytes changed, removed, duplicated or cut off; half of the time in its pickle."""
    content = bytearray(content)
    start = content.find(b"\x80\x02") if rng.random() < 0.5 else 0
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(start, min(len(content), start + 900) if start else len(content)))
        match rng.integers(4):
            case 0:
                content[at] = int(rng.integers(256))
            case 1:
                del content[at : at + int(rng.integers(1, 9))]
            case 2:
                content[at:at] = content[at : at + int(rng.integers(1, 40))]
            case 3:
                del content[at:]
        content += b"\x80" * (not content)
    return bytes(content)


def refusal(action):
    """The error message of an action, or None if it does not fail."""
    try:
        action()
    except (NotReadableError, UserError) as error:
        return str(error)


def test_damaged_files_are_read_or_give_a_one_line_error(tmp_path):
    rng, path, lines = np.random.default_rng(0), tmp_path / "x.pth", []
    for i in range(300):
        content = damaged(rng, (DATA / LAYOUTS[i % 2]).read_bytes())
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about zip files with two members of the same name
            error = refusal(lambda content=content: read_watched(content))
            lines += [line for line in (error, refusal(lambda: read_state_dict(path))) if line]
            assert (error is None) or lines[-1].startswith(f"{path}: is not a readable PyTorch file")
    assert not any("\n" in line for line in lines)
    assert len(lines) > 400


class Runs:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zipped(pickled, **members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, values in members.items():
            archive.writestr(f"a/data/{name}", values)
    return content.getvalue()


def test_a_pickle_cannot_call_functions():
    calls = [
        Runs(os.mkdir, "owned"),
        Runs(os.system, "touch owned"),
        Runs(eval, "__import__('os').mkdir('owned')"),
        Runs(__import__, "antigravity"),
        Runs(open, "owned", "w"),
        Runs(print, "owned"),
    ]
    for call in calls:
        for protocol in range(5):
            content = zipped(pickle.dumps({"state_dict": {"x": 1}, "meta": call}, protocol))
            assert isinstance(read_watched(content)["meta"], Placeholder)
    assert not Path("owned").exists()


HOSTILE = {
    "sets attributes of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor\n}X\x01\x00\x00\x00aK\x01sb.",
    "sets attributes of a class": b"\x80\x02ccollections\nOrderedDict\n(N}X\x01\x00\x00\x00aK\x01stb.",
    "calls a text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "a memo of any size": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a bytearray of any size": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "a text of any size": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "a registered extension": b"\x80\x02\x82\x01.",
    "no end": b"\x80\x02" + b"(" * 100_000,
    "deep": b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b".",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "laughs": b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40)) + b".",
    "another storage": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_do_nothing(name):
    before = dict(vars(torch_files._tensor))
    for content in (zipped(HOSTILE[name]), HOSTILE[name]):
        assert "\n" not in (refusal(lambda content=content: read_watched(content)) or "")
    assert vars(torch_files._tensor) == before


def tensor(shape, strides, offset=0, count=4):
    """A pickle of one tensor in a storage of four float32 values."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    number = lambda n: b"\x8a\x08" + struct.pack("<q", n)  # noqa: E731
    numbers = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides)]
    start = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(count) + b"tQ" + number(offset)
    return start + numbers[0] + numbers[1] + b"\x89)tR."


def test_tensors_must_lie_inside_their_storage():
    values = np.arange(4, dtype="<f4").tobytes()
    found = read_watched(zipped(tensor((2, 2), (1, 2)), **{"0": values}))
    np.testing.assert_array_equal(found, [[0, 2], [1, 3]])
    for shape, strides, offset, count in (
        ((5,), (1,), 0, 4),
        ((2, 2), (2, 2), 0, 4),
        ((4,), (1,), 1, 4),
        ((-1,), (1,), 0, 4),
        ((4,), (-1,), 3, 4),
        ((2**40,), (0,), 0, 4),
        ((4,), (1,), 0, 5),
        ((4,), (1,), 0, -1),
        ((4,), (1, 1), 0, 4),
        ((4,), (1,), 0, 2**62),
    ):
        with pytest.raises(NotReadableError):
            read_watched(zipped(tensor(shape, strides, offset, count), **{"0": values}))


def test_a_compressed_member_is_refused():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps([0] * 10**6, 2))
    with pytest.raises(NotReadableError, match="is compressed"):
        read_watched(content.getvalue())


def test_each_dtype_can_be_written_and_read():
    arrays = {name: np.zeros(2, name) for name in ("float64", "float16", "int32", "uint8", "bool")}
    found = read_watched(write_torch_file(arrays))["state_dict"]
    assert {name: array.dtype.name for name, array in found.items()} == {name: name for name in arrays}
