"""Paths on a disk, or in object storage as `gs://BUCKET/...`: etils.epath has one kind for both.

Objects of a bucket are reached with gcsfs. What cannot be in a bucket says so with `require_local`.
"""

import importlib.util
import os
import pathlib
import re

import fsspec.config
from etils.epath import Path

from gfl_jax.errors import UserError

# The libraries that etils.epath and Orbax reach a bucket with, and their packages.
NEEDED = {"gcsfs": "gcsfs==2026.10.1", "google.cloud.storage": "google-cloud-storage==3.17.1"}

# Another process may have changed what a listing told, and each `lease.json` is read to see just that.
fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False


def as_path(text: str | os.PathLike[str]) -> Path:
    """A path that a user gave, `~` expanded, which shells leave as it is after an `=`.

    Raises:
      UserError: it is empty, no file system takes it, it is of a storage that is not known here, or a
        library that is needed for it is not installed.
    """
    text = os.fspath(text)
    if not text or "\0" in text:
        raise UserError(f"{text!r}: is no path of a file or folder; name one")
    if is_remote(text):
        if not re.match("gs://[^/]+", text):
            raise UserError(f"{text}: names no bucket; write gs://BUCKET/FOLDER")
        missing = [name for name in NEEDED if not _is_installed(name)]
        if missing:
            packages = " ".join(NEEDED.values())
            raise UserError(f"{text}: needs {missing[0]}; pip install {packages} (the extra `gs`)")
    elif scheme := re.match("[A-Za-z][A-Za-z0-9+.-]*:/+", text):
        raise UserError(
            f"{text}: {scheme[0]} is not known here; name a path on this machine, or gs://BUCKET/..."
        )
    return Path(os.path.expanduser(text))


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in object storage."""
    return os.fspath(path).startswith("gs://")


def absolute(path: str | os.PathLike[str]) -> Path:
    """The same path from the root on; links in it are not followed."""
    return Path(path if is_remote(path) else os.path.abspath(path))


def require_local(path: str | os.PathLike[str], what: str) -> None:
    """Checks that a path is on a disk.

    Args:
      path: that a user gave.
      what: is at the path, for the message, in the plural: such as "videos".

    Raises:
      UserError: it is in object storage.
    """
    as_path(path)
    if is_remote(path):
        raise UserError(f"{path}: {what} must be on this machine; copy them to a folder here, and name that")


def local_path(text: str) -> pathlib.Path:
    """A path of the command line that must be on a disk.

    Raises:
      UserError: it is not, or no path at all.
    """
    require_local(text, "these files")
    return pathlib.Path(os.path.expanduser(text))


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # not even the package that it would be in
        return False
