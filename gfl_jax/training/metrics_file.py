"""The numbers of a run as JSON lines, the same in a resumed run as in an uninterrupted one."""

import json
from pathlib import Path
from typing import Any

from gfl_jax.files import read_file, to_disk, write_file, writing

Row = dict[str, Any]


class MetricsFile:
    """Rows with a "step", appended one by one and on disk at once."""

    def __init__(self, path: Path, last_step: int, write: bool = True):
        """Drops the rows of a file after `last_step`, which will come again.

        With `write` False the rows are in memory only, for the further processes of a run.
        """
        self.rows = [row for row in read_rows(path) if row["step"] <= last_step]
        self._path, self._write = path, write
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        self._size = len(text.encode())
        if write:
            write_file(path, text)

    def append(self, row: Row) -> None:
        """Writes a row; floats keep all their digits."""
        self.rows.append(row)
        if self._write:
            line = (json.dumps(row) + "\n").encode()
            writing(lambda: self._append(line), f"{self._path}: cannot be written")
            self._size += len(line)

    def _append(self, line: bytes) -> None:
        with self._path.open("ab") as stream:
            if stream.tell() > self._size:
                stream.truncate(self._size)  # without what an attempt that failed has left
            stream.write(line)
            to_disk(stream)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, without lines that are none, such as a last one that a killed process left."""
    if not path.is_file():
        return []
    rows = []
    for line in read_file(path).decode(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
