"""Who writes in a work directory: the run that was started last.

Where a run hangs or is cut off, the scheduler starts it again, and the old one may wake up beside its
successor. Then both would write. So each run leaves its name when it starts, and looks before it writes
whether it is still there.
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
        """Takes the work directory over, from whichever run had it; without `write` it is another's task."""
        self._file, self._write = workdir / FILE, write
        self._own = {"host": socket.gethostname(), "process": os.getpid(), "token": uuid.uuid4().hex}
        if write:
            write_file(self._file, json.dumps(self._own))

    def check(self) -> None:
        """To be called before each write.

        Raises:
          UserError: another run has taken over.
        """
        if not self._write:
            return
        try:
            holder = json.loads(read_file(self._file))
        except (UserError, ValueError):  # deleted or damaged, but no other run's: work done is still saved
            return
        if isinstance(holder, dict) and holder != self._own:
            who = f"process {holder.get('process')} on {holder.get('host')}"
            raise UserError(
                f"{self._file}: another run ({who}) has taken over this work directory; this one ends, and "
                "writes nothing more; give each run its own --workdir"
            )
