"""Checksums of the files of a checkpoint, to detect damage before it is read.

Orbax alone detects most truncated files, but late and with tracebacks from its threads. It does not
detect changed bytes at all.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from etils.epath import Path

from gfl_jax.files import PAUSES, files_below, retrying

T = TypeVar("T")

NAME = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` into `folder`. It covers the files of all subfolders, not `folder`'s own."""
    folder = Path(folder)
    files = [file for file in files_below(folder) if file.parent != folder]
    sums = {str(file.relative_to(folder)): _checksum(file) for file in files}
    (folder / NAME).write_text(json.dumps(sums, indent=1))


def find_damage(folder: Path, pauses: Sequence[float] = PAUSES) -> str | None:
    """Describes in a few words what is wrong with the listed files. Returns None if nothing is wrong.

    A temporary failure of the storage is not damage: the read is repeated after each of `pauses` (seconds).

    Raises:
      UserError: storage still fails after that, so the files cannot be checked.
    """

    def read(name: str, action: Callable[[Path], T]) -> T:
        return retrying(lambda: action(folder / name), f"{folder / name}: cannot be read", pauses)

    try:
        sums = json.loads(read(NAME, lambda file: file.read_bytes()))
    except (OSError, ValueError):
        sums = None
    if not isinstance(sums, dict):
        return f"{NAME} is missing or damaged"
    for name, expected in sums.items():
        try:
            if read(name, _checksum) != expected:
                return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
