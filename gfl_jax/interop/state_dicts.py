"""State dicts of PyTorch as files: names to numpy arrays, read and written.

`.safetensors` needs no PyTorch. `.pth` and `.pt` need the optional extra `torch`, and are read with
`weights_only=True`: a pickle in them may build tensors and plain containers, and can run nothing.
"""

import importlib
import io
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils.epath import Path

from gfl_jax.errors import UserError
from gfl_jax.files import open_file, read_file, write_file
from gfl_jax.paths import as_path

TORCH = "torch==2.13.0"
SAFETENSORS_TYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
# Where the state dict lies in a file that holds more: mmdetection's and mmpretrain's, detectron2's.
WRAPPERS = ("state_dict", "model")
# What the logs beside the weights in files of mmdetection are made of. These names are read as
# `Ignored`: whatever they stand for is neither imported nor called.
LOGS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "__builtin__.getattr",
    "builtins.getattr",
)


def is_state_dict_file(path: str | Path) -> bool:
    """Whether a name is that of a file that `read_state_dict` reads."""
    return Path(path).suffix in READERS


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Names to arrays; float16 and bfloat16 become float32, which changes no value.

    Raises:
      UserError: there is no such file, it cannot be read, it holds more than weights, or it is a
        `.pth` and PyTorch is not installed.
    """
    path = as_path(path)
    _check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; name a file of weights")
    return READERS[path.suffix](path)


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a file that `read_state_dict` reads, and mmdetection; never half of one.

    Raises:
      UserError: the name ends otherwise, or it is a `.pth` and PyTorch is not installed.
    """
    path = as_path(path)
    torch = check_writable(path)
    arrays = {name: np.asarray(x, order="C") for name, x in state_dict.items()}
    if torch is None:
        write_file(path, safetensors.numpy.save(arrays, metadata={"format": "pt"}))
        return
    content = io.BytesIO()
    # Copies, since PyTorch warns of arrays that must not be changed.
    tensors = {name: torch.from_numpy(x.copy()) for name, x in arrays.items()}
    torch.save({"meta": {}, "state_dict": tensors}, content)
    write_file(path, content.getvalue())


def check_writable(path: str | Path) -> Any:
    """Returns the module `torch` where it is needed to write the file, else None.

    Raises:
      UserError: as `write_state_dict`; to be known before long work.
    """
    path = as_path(path)
    _check_suffix(path)
    return None if path.suffix == ".safetensors" else _import_torch(path)


class Ignored:
    """Takes the place of what a file holds beside its weights."""

    def __init__(self, *parts: object): ...

    def __setstate__(self, state: object) -> None: ...


def _check_suffix(path: Path) -> None:
    if path.suffix not in READERS:
        raise UserError(f"{path}: the name of a file of weights must end in one of {', '.join(READERS)}")


def _import_torch(path: Path) -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{path}: needs PyTorch ({error}); pip install {TORCH} (the extra `torch`), "
            "or use a .safetensors file, which needs none"
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(read_file(path))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: is no readable safetensors file ({error}); fetch it again") from error
    state_dict = {}
    for name, entry in sorted(entries):
        if entry["dtype"] not in SAFETENSORS_TYPES:
            raise UserError(f"{path}: {name} is of type {entry['dtype']}, which no weights here are")
        flat = np.frombuffer(entry["data"], SAFETENSORS_TYPES[entry["dtype"]])
        state_dict[name] = _widened(flat.reshape(entry["shape"]))
    return state_dict


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    torch = _import_torch(path)
    try:
        allowed = torch.serialization.safe_globals([(Ignored, name) for name in LOGS])
        # The warnings are of pickles that it does not know.
        with allowed, warnings.catch_warnings(action="ignore"), open_file(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_refusal(str(error))}") from error
    except Exception as error:  # whatever the bytes of a broken file lead to
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{path}: is no readable PyTorch file ({reason}); fetch it again") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds no state dict ({type(content).__name__}); save model.state_dict()")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: {name!r} in it is no tensor; save model.state_dict()")
    return {name: _to_numpy(torch, value, f"{path}: {name}") for name, value in content.items()}


def _refusal(message: str) -> str:
    """PyTorch's reason in one line, without its advice to read the file in an unsafe way."""
    if wanted := re.search(r"GLOBAL (\S+)", message):
        return (
            f"refused: it asks for {wanted[1]}, which is no weights, and nothing of it was run; "
            "save its state_dict() alone, or as .safetensors"
        )
    reason = re.search(r"WeightsUnpickler error:\s*(.*)", message)
    return f"is no PyTorch file of weights ({reason[1] if reason else 'unreadable'}); fetch it again"


def _to_numpy(torch: Any, tensor: Any, name: str) -> np.ndarray:
    tensor = tensor.detach()
    try:
        return _widened((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())
    except (TypeError, RuntimeError) as error:  # sparse, quantized, ...
        raise UserError(
            f"{name} is no plain array ({tensor.layout}, {tensor.dtype}); save it dense"
        ) from error


def _widened(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype in (np.float16, jnp.bfloat16) else x


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_pickle,
    ".pt": _read_pickle,
}
