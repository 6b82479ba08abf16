"""The numbers of a run as JSON lines, the same in a resumed run as in an uninterrupted one."""

import json
import os
from pathlib import Path
from typing import Any, TextIO

Row = dict[str, Any]


class MetricsFile:
    """Rows with a "step", appended one by one and on disk at once."""

    def __init__(self, path: Path, last_step: int, write: bool = True):
        """Opens the file and drops its rows after `last_step`, which will come again.

        With `write` False the rows are in memory only, for the further processes of a run.
        """
        self.rows = [row for row in read_rows(path) if row["step"] <= last_step]
        self._stream: TextIO | None = None
        if not write:
            return
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        os.replace(temporary, path)
        self._stream = path.open("a")

    def append(self, row: Row) -> None:
        """Writes a row; floats keep all their digits."""
        self.rows.append(row)
        if self._stream is not None:
            self._stream.write(json.dumps(row) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._stream is not None:
            self._stream.close()


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, without a last one that a killed process left unfinished."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
