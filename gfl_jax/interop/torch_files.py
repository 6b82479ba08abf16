"""Reads and writes files of `torch.save` without PyTorch, as arrays and plain containers.

A pickle is a program. Here it can only call the few functions in `_NAMES`. Any other name in it becomes an
inert `Placeholder`. Two layouts can be read: the zip file of PyTorch 1.6 and later, and the older layout,
which many weights of 2020 have.
"""

import collections
import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the start of the older layout
_TYPES: dict[str, Any] = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip


class NotReadableError(ValueError):
    """Says in a few words what is wrong with a file."""


class Placeholder:
    """Stands for an unneeded object that a file names. The object is neither imported nor called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object, **__: object) -> "Placeholder":
        """Returns itself when a pickle calls it."""
        return self

    def append(self, value: object) -> None:
        """Ignores an item that a pickle appends."""

    def __setitem__(self, key: object, value: object) -> None: ...


class _Storage:
    """An array of values in a file. Tensors are parts of it."""

    def __init__(self, key: str, dtype: Any, count: int) -> None:
        self.key, self.dtype, self.count = key, np.dtype(dtype), count
        self.values = np.zeros(0, dtype)

    def fill(self, content: bytes, order: str) -> None:
        """Sets the values from bytes in the byte order of the machine that saved them."""
        if len(content) < self.count * self.dtype.itemsize:
            raise NotReadableError(f"the values of storage {self.key} are truncated")
        values = np.frombuffer(content, self.dtype, self.count)
        self.values = values if order == sys.byteorder else values.byteswap()


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The values of the tensor in C order."""
        last = self.offset + sum((n - 1) * by for n, by in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        if last >= self.storage.count or math.prod(self.shape) > self.storage.count:
            raise NotReadableError(f"a tensor of shape {self.shape} is larger than its storage")
        steps = [by * self.storage.dtype.itemsize for by in self.strides]
        values = self.storage.values[self.offset :]
        seen = np.lib.stride_tricks.as_strided(values, self.shape, steps, writeable=False)
        return np.require(seen, requirements="C")


def read_torch_file(content: bytes) -> Any:
    """Reads the saved object: tensors become arrays, and other objects than containers placeholders.

    Args:
      content: the bytes of the file.

    Raises:
      NotReadableError: it is not such a file, or it is damaged.
    """
    try:
        found = _read_zip(content) if content.startswith(b"PK") else _read_older(content)
        return _as_arrays(found, {})
    except NotReadableError:
        raise
    except Exception as error:  # a broken file can cause any error
        reason = (str(error).splitlines() or [""])[0]
        raise NotReadableError(f"{type(error).__name__} {reason}".strip()) from error


def write_torch_file(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a file that `torch.load` reads as {"meta": {}, "state_dict": tensors}."""
    names = {np.dtype(dtype): name for name, dtype in _TYPES.items()}
    tensors, content = [], io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for key, (name, array) in enumerate(arrays.items()):
            kind = names[array.dtype]
            tensors += [_text(name), _tensor_pickled(kind, str(key), array)]
        pickled = b"\x80\x02}(" + _text("meta") + b"}" + _text("state_dict") + b"}("
        archive.writestr("archive/data.pkl", pickled + b"".join(tensors) + b"uu.")
        archive.writestr("archive/byteorder", sys.byteorder)
        for key, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", "3\n")
    return content.getvalue()


def _read_zip(content: bytes) -> Any:
    """Reads the layout of zip files: NAME/data.pkl, and each storage in NAME/data/KEY, not compressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise NotReadableError("it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        order = _member(archive, f"{folder}byteorder") if f"{folder}byteorder" in names else b"little"
        storages: dict[str, _Storage] = {}
        found = _Unpickler(io.BytesIO(_member(archive, pickles[0])), storages).load()
        for key, storage in storages.items():
            storage.fill(_member(archive, f"{folder}data/{key}"), order.decode())
        return found


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    # PyTorch never compresses, and a small compressed file could expand to a huge one.
    if info.compress_type != zipfile.ZIP_STORED:
        raise NotReadableError(f"{name} is compressed")
    return archive.read(info)


def _read_older(content: bytes) -> Any:
    """Reads the older layout: pickles of magic number, protocol, machine, object and keys, then values."""
    file, storages = io.BytesIO(content), dict[str, _Storage]()
    if _Unpickler(file, {}).load() != _MAGIC or _Unpickler(file, {}).load() != _PROTOCOL:
        raise NotReadableError("it was not written by torch.save")
    order = "little" if _Unpickler(file, {}).load()["little_endian"] else "big"
    found = _Unpickler(file, storages).load()
    for key in _Unpickler(file, {}).load():
        storage = storages[key]
        if np.frombuffer(file.read(8), "<i8" if order == "little" else ">i8")[0] != storage.count:
            raise NotReadableError(f"storage {key} has the wrong number of values")
        storage.fill(file.read(storage.count * storage.dtype.itemsize), order)
    return found


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in Python, because a file can make the one in C use all memory. Sets no states."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storages = storages
        self.stack: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        """Returns a function of `_NAMES`, the name of a storage type, or a placeholder."""
        if module == "torch" and name in _TYPES:
            return name
        whole = f"{module}.{name}"
        return _NAMES.get(whole) or Placeholder(whole)

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that a tensor is part of."""
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise NotReadableError("it refers to an object that is not a storage")
        if type(count) is not int or count < 0 or type(dtype) is not str or type(key) is not str:
            raise NotReadableError("it has values of an unsupported type")
        return self._storages.setdefault(key, _Storage(key, _TYPES[dtype], count))

    def _call(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*arguments)

    def _call_with_names(self) -> None:
        named, arguments = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self.stack[-1](*arguments, **named)

    def _leave_state(self) -> None:
        self.stack.pop()

    # Without opcodes that allocate memory of any size, or use objects that the process has registered.
    dispatch: ClassVar[dict[int, Any]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4)
    } | {
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.NEWOBJ_EX[0]: _call_with_names,
        pickle.BUILD[0]: _leave_state,
    }


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Stands for `torch._utils._rebuild_tensor_v2`; the further arguments are about gradients."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise NotReadableError("a tensor in it has no valid values")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    """Stands for `torch._utils._rebuild_parameter`, and returns the tensor."""
    return data


_NAMES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": tuple,
}


def _as_arrays(value: Any, made: dict[int, Any]) -> Any:
    """Replaces tensors by arrays in nested containers. Each object is converted only once."""
    if id(value) not in made:
        result = value
        if isinstance(value, _Tensor):
            result = value.array()
        elif isinstance(value, dict):
            result = {key: _as_arrays(item, made) for key, item in dict.items(value)}
        elif type(value) in (list, tuple):
            result = type(value)(_as_arrays(item, made) for item in value)
        made[id(value)] = result
    return made[id(value)]


def _text(text: str) -> bytes:
    """A text as pickle opcodes."""
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _number(number: int) -> bytes:
    """An integer as pickle opcodes."""
    return b"\x8a\x08" + struct.pack("<q", number)


def _tensor_pickled(kind: str, key: str, array: np.ndarray) -> bytes:
    """A call of `_rebuild_tensor_v2` as pickle opcodes, as `torch.save` writes it."""
    storage = b"(" + _text("storage") + b"ctorch\n" + kind.encode() + b"\n" + _text(key) + _text("cpu")
    strides = [step // array.itemsize for step in np.empty(array.shape, array.dtype).strides]
    shape, steps = (b"(" + b"".join(map(_number, numbers)) + b"t" for numbers in (array.shape, strides))
    hooks = b"ccollections\nOrderedDict\n)R"
    start = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(array.size) + b"tQ" + _number(0)
    return start + shape + steps + b"\x89" + hooks + b"tR"
