"""Only the run that was started last may write in a work directory.

If a run hangs or is cut off, the scheduler restarts it. The old process may then wake up beside the new
one, and both would write. Therefore each run writes its identity into `lease.json` when it starts, and
checks before each write that the file still holds it.
"""

import json
import os
import socket
import uuid

from etils.epath import Path

from gfl_jax.errors import UserError
from gfl_jax.files import read_file, write_file

FILE = "lease.json"


class Lease:
    """The right to write in a work directory, until another run takes it."""

    def __init__(self, workdir: Path, write: bool = True) -> None:
        """Takes the work directory over from any earlier run. With `write` False, another process does it."""
        self._file, self._write = workdir / FILE, write
        self._own = {"host": socket.gethostname(), "process": os.getpid(), "token": uuid.uuid4().hex}
        if write:
            write_file(self._file, json.dumps(self._own))

    def check(self) -> None:
        """Checks that no other run has taken over. Must be called before each write.

        Raises:
          UserError: another run has taken over.
        """
        if not self._write:
            return
        try:
            holder = json.loads(read_file(self._file))
        except (UserError, ValueError):  # deleted or damaged, but not taken over: still save the work
            return
        if isinstance(holder, dict) and holder != self._own:
            who = f"process {holder.get('process')} on {holder.get('host')}"
            raise UserError(
                f"{self._file}: another run ({who}) has taken over this work directory, so this run ends "
                "without writing more; give each run its own --workdir"
            )
