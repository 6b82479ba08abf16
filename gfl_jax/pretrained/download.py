"""Downloads files of weights once: resumes partial downloads, checks the files and caches them."""

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

TIMEOUT = 30.0  # seconds without a byte before a connection counts as lost
PAUSES = (1, 2, 4)  # seconds to wait before each retry; an attempt that received bytes starts them again
_BLOCK = 1 << 18


def cache_folder() -> Path:
    """The folder of cached files: $GFL_JAX_CACHE, or `gfl_jax` in the user's cache folder."""
    own = os.environ.get("GFL_JAX_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own).expanduser() if own else Path(caches, "gfl_jax")


def fetch(url: str, sha256: str, file: Path, pauses: Sequence[float] = PAUSES) -> Path:
    """Downloads a file, unless it is there already, and returns its path.

    If the network fails, the bytes so far are kept, and the next call resumes from them. Several processes
    may call this at the same time: one downloads, and the others wait.

    Args:
      url: the address of the file.
      sha256: the first hexadecimal digits of its sha256.
      file: where the file is kept.
      pauses: seconds to wait before each retry.

    Raises:
      UserError: the file cannot be downloaded, or its sha256 is wrong.
    """
    if file.is_file():
        return file
    part = file.with_name(f"{file.name}.part")
    writing(lambda: part.parent.mkdir(parents=True, exist_ok=True), f"{part.parent}: cannot be created")
    with cast(BufferedRandom, retrying(lambda: part.open("ab+"), f"{part}: cannot be written")) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not file.is_file():  # another process may have downloaded it meanwhile
            _fetch(url, stream, sha256, file, pauses)
            os.replace(part, file)
    return file


def _fetch(url: str, stream: BufferedRandom, sha256: str, file: Path, pauses: Sequence[float]) -> None:
    """Downloads to `stream` until the content is complete and has the right sha256."""
    waits = list(pauses)
    while True:
        start = stream.seek(0, os.SEEK_END)
        try:
            _append_response(url, stream, start, file.name)
        except (OSError, http.client.HTTPException) as error:
            status = None
            if isinstance(error, urllib.error.HTTPError):
                status = error.code
                error.close()
            if status == 416 and start:  # no further bytes: it is complete, or another file
                pass
            else:
                if stream.seek(0, os.SEEK_END) > start:
                    waits = list(pauses)  # the attempt made progress
                if not waits or (status is not None and status < 500 and status not in (408, 429)):
                    raise _download_error(url, file, error) from error
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
                f"download it elsewhere and put it at {file}"
            )
        # The bytes from before may be of another file, so download again from the beginning.


def _append_response(url: str, stream: BufferedRandom, start: int, name: str) -> None:
    """Appends what the server sends, from byte `start` on if the server supports ranges."""
    headers = {"User-Agent": "gfl_jax"} | ({"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if start and answer.status != 206:  # the server sends the whole file
            stream.truncate(0)
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdecimal() else None
        with byte_progress(f"downloading {name}", total, start) as advance:
            while block := answer.read(_BLOCK):
                writing(functools.partial(stream.write, block), f"{stream.name}: cannot be written")
                advance(len(block))
        if total is not None and stream.tell() < total:
            raise http.client.IncompleteRead(b"")


def _sha256(stream: BufferedRandom) -> str:
    stream.flush()
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _download_error(url: str, file: Path, error: Exception) -> UserError:
    reason = str(error)
    if isinstance(error, http.client.IncompleteRead):
        reason = "the connection was cut"
    elif not isinstance(error, urllib.error.HTTPError):
        reason = str(getattr(error, "reason", error))
    return UserError(
        f"{url}: cannot be downloaded ({reason or type(error).__name__}); try again, or download it "
        f"elsewhere and put it at {file}"
    )
