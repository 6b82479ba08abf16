"""A list of the files in a folder's folders with checksums, to tell damage before reading.

Orbax notices most truncated files, but late and with tracebacks out of its threads, and does
not notice changed bytes at all.
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
    """Lists every file of the folders in `folder`, not those beside them, in a new file there."""
    folder = Path(folder)
    files = [file for file in files_below(folder) if file.parent != folder]
    sums = {str(file.relative_to(folder)): _checksum(file) for file in files}
    (folder / NAME).write_text(json.dumps(sums, indent=1))


def find_damage(folder: Path, pauses: Sequence[float] = PAUSES) -> str | None:
    """What is wrong with the listed files, in a few words; None if nothing is.

    Storage that fails for a moment is no damage: it is asked again, after `pauses` in seconds.

    Raises:
      UserError: storage still fails after that, so that nobody can tell.
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
