"""Files of weights from the network: fetched once, resumed where they were cut off, checked, and kept."""

import fcntl
import functools
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from io import BufferedRandom
from pathlib import Path
from typing import cast

from gfl_jax.console.progress import byte_progress
from gfl_jax.errors import UserError
from gfl_jax.files import retrying, writing

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1, 2, 4)  # seconds before each further attempt that follows one without a byte
_BLOCK = 1 << 18


def cache_folder() -> Path:
    """Where files are kept: $GFL_JAX_CACHE, or `gfl_jax` in the user's folder of caches."""
    own = os.environ.get("GFL_JAX_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own).expanduser() if own else Path(caches, "gfl_jax")


def fetch(url: str, sha256: str, file: Path, pauses: Sequence[float] = PAUSES) -> Path:
    """The file of an address, from where it is kept if it is there, else from the network.

    What was fetched before the network failed stays there, and the next call goes on from it. Several
    processes may call it at once: one fetches, the others wait.

    Args:
      url: of the file.
      sha256: what its sha256 begins with, in hexadecimal digits.
      file: where it is kept.
      pauses: seconds to wait before each further attempt.

    Raises:
      UserError: it cannot be fetched, or it is another file.
    """
    if file.is_file():
        return file
    part = file.with_name(f"{file.name}.part")
    writing(lambda: part.parent.mkdir(parents=True, exist_ok=True), f"{part.parent}: cannot be made")
    with cast(BufferedRandom, retrying(lambda: part.open("ab+"), f"{part}: cannot be written")) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not file.is_file():  # another process may have fetched it meanwhile
            _fetch(url, stream, sha256, file, pauses)
            os.replace(part, file)
    return file


def _fetch(url: str, stream: BufferedRandom, sha256: str, file: Path, pauses: Sequence[float]) -> None:
    """Fills a file until it is whole and the right one."""
    waits = list(pauses)
    while True:
        start = stream.seek(0, os.SEEK_END)
        try:
            _receive(url, stream, start, file.name)
        except (OSError, http.client.HTTPException) as error:
            status = None
            if isinstance(error, urllib.error.HTTPError):
                status = error.code
                error.close()
            if status == 416 and start:  # there is no more than we have: it is whole, or another file
                pass
            else:
                if stream.seek(0, os.SEEK_END) > start:
                    waits = list(pauses)  # it goes on, if in parts
                if not waits or (status is not None and status < 500 and status not in (408, 429)):
                    raise _cannot(url, file, error) from error
                time.sleep(waits.pop(0))
                continue
        if _sha256(stream).startswith(sha256):
            stream.flush()
            os.fsync(stream.fileno())
            return
        stream.truncate(0)
        if not start:
            raise UserError(
                f"{url}: is not the file that was published (its sha256 must begin with {sha256}); "
                f"fetch it elsewhere, and put it at {file}"
            )
        # What was there before may be of another file: once more, from the beginning.


def _receive(url: str, stream: BufferedRandom, start: int, name: str) -> None:
    """Appends what the server sends, from byte `start` on if it can do that."""
    headers = {"User-Agent": "gfl_jax"} | ({"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if start and answer.status != 206:  # the whole file
            stream.truncate(0)
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdecimal() else None
        with byte_progress(f"fetching {name}", total, start) as advance:
            while block := answer.read(_BLOCK):
                writing(functools.partial(stream.write, block), f"{stream.name}: cannot be written")
                advance(len(block))
        if total is not None and stream.tell() < total:
            raise http.client.IncompleteRead(b"")


def _sha256(stream: BufferedRandom) -> str:
    stream.flush()
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _cannot(url: str, file: Path, error: Exception) -> UserError:
    told = str(error)
    if isinstance(error, http.client.IncompleteRead):
        told = "the connection was cut"
    elif not isinstance(error, urllib.error.HTTPError):
        told = str(getattr(error, "reason", error))
    return UserError(
        f"{url}: cannot be fetched ({told or type(error).__name__}); try again, or fetch it elsewhere and "
        f"put it at {file}"
    )
