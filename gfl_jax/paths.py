"""Paths on a disk, or in object storage as `gs://BUCKET/...`; etils.epath has one type for both.

gcsfs accesses the objects of a bucket. Code that needs a local path checks it with `require_local`.
"""

import importlib.util
import os
import pathlib
import re

import fsspec.config
from etils.epath import Path

from gfl_jax.errors import UserError

# The libraries with which etils.epath and Orbax access a bucket, and their packages.
NEEDED = {"gcsfs": "gcsfs==2026.10.1", "google.cloud.storage": "google-cloud-storage==3.17.1"}

# No cached listings: another process may have changed a folder, and `lease.json` is read to detect that.
fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False


def as_path(text: str | os.PathLike[str]) -> Path:
    """Converts a path that a user gave; expands `~`, because shells do not expand it after an `=`.

    Raises:
      UserError: the path is empty or invalid, its kind of storage is not supported, or a library that it
        needs is not installed.
    """
    text = os.fspath(text)
    if not text or "\0" in text:
        raise UserError(f"{text!r}: is not a valid path; name a file or folder")
    if is_remote(text):
        if not re.match("gs://[^/]+", text):
            raise UserError(f"{text}: names no bucket; write gs://BUCKET/FOLDER")
        missing = [name for name in NEEDED if not _is_installed(name)]
        if missing:
            packages = " ".join(NEEDED.values())
            raise UserError(f"{text}: needs {missing[0]}; pip install {packages} (the extra `gs`)")
    elif scheme := re.match("[A-Za-z][A-Za-z0-9+.-]*:/+", text):
        raise UserError(
            f"{text}: {scheme[0]} is not supported; name a path on this machine, or gs://BUCKET/..."
        )
    return Path(os.path.expanduser(text))


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in object storage."""
    return os.fspath(path).startswith("gs://")


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path; links in it are not followed."""
    return Path(path if is_remote(path) else os.path.abspath(path))


def require_local(path: str | os.PathLike[str], what: str) -> None:
    """Checks that a path is on a disk.

    Args:
      path: a path that a user gave.
      what: plural noun for the data at the path, for the message, such as "videos".

    Raises:
      UserError: the path is in object storage or invalid.
    """
    as_path(path)
    if is_remote(path):
        raise UserError(f"{path}: {what} must be on this machine; copy them to a folder here, and name that")


def local_path(text: str) -> pathlib.Path:
    """Converts a path of the command line that must be on a disk.

    Raises:
      UserError: the path is in object storage or invalid.
    """
    require_local(text, "these files")
    return pathlib.Path(os.path.expanduser(text))


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # its parent package is missing too
        return False
