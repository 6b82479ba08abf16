"""Files of reference figures, and how far our figures are from them.

A file holds arrays under CASE/PART keys. An array too long was stored as every n-th value of
its flat form, with n under KEY@stride and the full shape under KEY@shape.
"""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gfl_jax.errors import UserError


class Row(NamedTuple):
    """One line of the verdict: how far a part is from the reference."""

    part: str
    deviation: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the deviation is a number within the tolerance."""
        return bool(self.deviation <= self.tolerance)


class Reference:
    """Reads a file of reference figures.

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
          UserError: the file does not have it.
        """
        if key not in self.arrays:
            raise UserError(f"{self.path}: has no entry {key!r}; is it a file of reference figures?")
        return self.arrays[key]

    def keys(self, prefix: str) -> list[str]:
        """What follows `prefix` in every key that starts with it."""
        starting = (key for key in self.arrays if key.startswith(prefix) and "@" not in key)
        return [key[len(prefix) :] for key in starting]

    def size(self, key: str) -> int:
        """Number of values of an array before its thinning."""
        return int(np.prod(self[f"{key}@shape"])) if f"{key}@shape" in self else self[key].size

    def deviation(self, key: str, ours: ArrayLike, mask: ArrayLike | None = None) -> float:
        """Largest difference, relative to the largest magnitude of the reference; inf for another shape.

        Where there is a `mask`, only what it selects is compared.
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
    """max |ours - theirs| / max |theirs|, or over `scale`; inf for another shape or for NaN."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return np.inf
    if not ours.size:
        return 0.0
    largest = np.max(np.abs(theirs)) if scale is None else scale
    difference = np.max(np.abs(ours - theirs))
    return float(difference / largest if largest > 0 else difference) if np.isfinite(difference) else np.inf
