"""The numbers of a run as JSON lines. A resumed run has the same rows as an uninterrupted one."""

import json
from typing import Any

from etils.epath import Path

from gfl_jax.files import read_file, sync_file, write_file, writing
from gfl_jax.paths import is_remote

Row = dict[str, Any]


class MetricsFile:
    """Rows with a "step", appended one by one.

    On a disk each row is written at once. An object in a bucket cannot grow, so `flush` rewrites it.
    """

    def __init__(self, path: Path, last_step: int, write: bool = True):
        """Opens a file and drops its rows after `last_step`, since the resumed run appends them again.

        With `write` False the rows are kept in memory only, for processes other than the first.
        """
        self.rows = [row for row in read_rows(path) if row["step"] <= last_step]
        self._path, self._write, self._remote = path, write, is_remote(path)
        self._lines = [_line(row) for row in self.rows]
        self._size = sum(map(len, self._lines))
        if write:
            write_file(path, b"".join(self._lines))

    def append(self, row: Row) -> None:
        """Writes a row; floats keep all their digits."""
        line = _line(row)
        self.rows.append(row)
        self._lines.append(line)
        if self._write and not self._remote:
            writing(lambda: self._append(line), f"{self._path}: cannot be written")
            self._size += len(line)

    def flush(self) -> None:
        """Waits until all rows are in storage."""
        if self._write and self._remote:
            write_file(self._path, b"".join(self._lines))

    def _append(self, line: bytes) -> None:
        with self._path.open("ab") as stream:
            if stream.tell() > self._size:
                stream.truncate(self._size)  # drop what a failed attempt left
            stream.write(line)
            sync_file(stream)


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a file. Skips other lines, such as an incomplete last line of a killed process."""
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


def _line(row: Row) -> bytes:
    return (json.dumps(row) + "\n").encode()
