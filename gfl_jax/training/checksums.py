"""A list of the files in a folder's folders with checksums, to tell damage before reading.

Orbax notices most truncated files, but late and with tracebacks out of its threads, and does
not notice changed bytes at all.
"""

import json
import zlib
from pathlib import Path

NAME = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Lists every file of the folders in `folder`, not those beside them, in a new file there."""
    files = sorted(file for file in folder.glob("*/**/*") if file.is_file())
    sums = {str(file.relative_to(folder)): _checksum(file) for file in files}
    (folder / NAME).write_text(json.dumps(sums, indent=1))


def find_damage(folder: Path) -> str | None:
    """What is wrong with the listed files, in a few words; None if nothing is."""
    try:
        sums = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        sums = None
    if not isinstance(sums, dict):
        return f"{NAME} is missing or damaged"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        try:
            if _checksum(folder / name) != expected:
                return f"{name} is damaged"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
