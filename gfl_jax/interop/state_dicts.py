"""Reads and writes files of PyTorch state dicts, as mappings from names to numpy arrays.

The formats are `.safetensors` and PyTorch's own `.pth` and `.pt`. None needs PyTorch, and no code in a file
can run.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils.epath import Path

from gfl_jax.errors import UserError
from gfl_jax.files import read_file, write_file
from gfl_jax.interop.torch_files import NotReadableError, Placeholder, read_torch_file, write_torch_file
from gfl_jax.paths import as_path

SAFETENSORS_TYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
# The key of the state dict in files that hold more: of mmdetection and mmpretrain, and of detectron2.
WRAPPERS = ("state_dict", "model")


def is_state_dict_file(path: str | Path) -> bool:
    """Whether `read_state_dict` reads files with such a name."""
    return Path(path).suffix in READERS


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a file of weights as a mapping from names to arrays.

    Arrays in float16 and bfloat16 become float32, which changes no value.

    Raises:
      UserError: the file does not exist, cannot be read, or contains no weights.
    """
    path = as_path(path)
    check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a file of weights")
    return READERS[path.suffix](path)


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a file that `read_state_dict` and mmdetection can read. A failure leaves no partial file.

    Raises:
      UserError: the ending of the name is unknown, or the file cannot be written.
    """
    path = as_path(path)
    check_suffix(path)
    arrays = {name: np.asarray(x, order="C") for name, x in state_dict.items()}
    if path.suffix == ".safetensors":
        write_file(path, safetensors.numpy.save(arrays, metadata={"format": "pt"}))
    else:
        write_file(path, write_torch_file(arrays))


def check_suffix(path: Path) -> None:
    """Checks the name of a file of weights, so that an error comes before long work.

    Raises:
      UserError: its ending is not that of a file of weights.
    """
    if path.suffix not in READERS:
        raise UserError(f"{path}: the name of a file of weights must end in one of {', '.join(READERS)}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(read_file(path))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: is not a readable safetensors file ({error}); download it again") from error
    state_dict = {}
    for name, entry in sorted(entries):
        if entry["dtype"] not in SAFETENSORS_TYPES:
            raise UserError(f"{path}: {name} has the unsupported type {entry['dtype']}; save it as float32")
        flat = np.frombuffer(entry["data"], SAFETENSORS_TYPES[entry["dtype"]])
        state_dict[name] = _widened(flat.reshape(entry["shape"]))
    return state_dict


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        content = read_torch_file(read_file(path))
    except NotReadableError as error:
        raise UserError(f"{path}: is not a readable PyTorch file ({error}); download it again") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content:
        kind = content.name if isinstance(content, Placeholder) else type(content).__name__
        raise UserError(f"{path}: contains no state dict ({kind}); save model.state_dict()")
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Placeholder):
            raise UserError(f"{path}: {name} is not a plain array ({value.name}); save it as a dense tensor")
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise UserError(f"{path}: entry {name!r} is not a tensor; save model.state_dict()")
    return {name: _widened(array) for name, array in content.items()}


def _widened(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype in (np.float16, jnp.bfloat16) else x


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_pickle,
    ".pt": _read_pickle,
}
