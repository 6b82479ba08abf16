"""Files of reference values, and how far our values are from them.

A file holds arrays under CASE/PART keys. For a long array, only every n-th value of the flat array is stored,
with n under KEY@stride and the full shape under KEY@shape.
"""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gfl_jax.errors import UserError


class Row(NamedTuple):
    """One row of the result: how far a part is from the reference."""

    part: str
    deviation: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the deviation is a number within the tolerance."""
        return bool(self.deviation <= self.tolerance)


class Reference:
    """Reads a file of reference values.

    Raises:
      UserError: the file is missing or is not of this format.
    """

    def __init__(self, path: str | Path):
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                self.arrays = {key: archive[key] for key in archive.files}
        except FileNotFoundError as error:
            raise UserError(f"--reference={path}: there is no such file") from error
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"--reference={path}: is not a readable .npz file ({error})") from error
        self.path = Path(path)

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> np.ndarray:
        """The array as stored.

        Raises:
          UserError: the file has no such array.
        """
        if key not in self.arrays:
            raise UserError(f"{self.path}: has no entry {key!r}; is it a file of reference values?")
        return self.arrays[key]

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, without it."""
        starting = (key for key in self.arrays if key.startswith(prefix) and "@" not in key)
        return [key[len(prefix) :] for key in starting]

    def size(self, key: str) -> int:
        """The number of values of the full array."""
        return int(np.prod(self[f"{key}@shape"])) if f"{key}@shape" in self else self[key].size

    def deviation(self, key: str, ours: ArrayLike, mask: ArrayLike | None = None) -> float:
        """The largest difference, relative to the largest magnitude of the reference; inf if shapes differ.

        With a `mask`, only the values that it selects are compared.
        """
        theirs = self[key]
        ours = np.asarray(ours)
        selected = np.broadcast_to(True if mask is None else np.asarray(mask), ours.shape)
        if f"{key}@stride" in self:
            if tuple(self[f"{key}@shape"]) != ours.shape:
                return np.inf
            stride = int(self[f"{key}@stride"])
            ours, selected = ours.reshape(-1)[::stride], selected.reshape(-1)[::stride]
        if ours.shape != theirs.shape:
            return np.inf
        return relative_deviation(ours[selected], theirs[selected])


def relative_deviation(ours: ArrayLike, theirs: ArrayLike, scale: float | None = None) -> float:
    """max |ours - theirs| / max |theirs|, or divided by `scale`; inf if shapes differ or for NaN."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return np.inf
    if not ours.size:
        return 0.0
    largest = np.max(np.abs(theirs)) if scale is None else scale
    difference = np.max(np.abs(ours - theirs))
    return float(difference / largest if largest > 0 else difference) if np.isfinite(difference) else np.inf
