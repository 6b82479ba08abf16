"""The inputs of `predict`: image and video files, folders of them, and patterns."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl_jax.files import identity
from gfl_jax.paths import is_remote

_IMAGE = re.compile(r"\.(jpe?g|jpe|jfif|jp2|png|bmp|dib|tiff?|webp|gif|avif|p[pgbn]m)", re.IGNORECASE)
_VIDEO = re.compile(r"\.(mp4|m4v|mov|avi|mkv|webm|mpe?g|wmv|flv|3gp|m2ts|mts)", re.IGNORECASE)


class Inputs(NamedTuple):
    """The files, each once, in the order in which they were named, and the problems with the other words."""

    files: list[Path]
    problems: list[str]  # one line for each word without a file, or for a folder that cannot be read


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its extension."""
    return _VIDEO.fullmatch(path.suffix) is not None


def find_inputs(words: Sequence[str], leave_out: Path | None = None) -> Inputs:
    """Finds the files that words of the command line name.

    A word is a file, a folder (all images and videos in it and below it), or a pattern: a word with `*`, `?`
    or `[` that is not the name of a file. `~` is the home folder. The contents of folders are sorted; hidden
    files and folders are left out.

    Args:
      words: from the command line.
      leave_out: a folder to skip when it lies below one that is searched.
    """
    files: dict[str, Path] = {}
    problems: list[str] = []
    for word in words:
        if is_remote(word):
            problems.append(f"{word}: inputs must be on this machine; copy them to a local folder")
            continue
        name = os.path.expanduser(word)
        is_there = os.path.lexists(name)
        if not is_there and not glob.has_magic(name):
            problems.append(
                f"{word or repr(word)}: cannot be read (No such file or directory); check the path"
            )
            continue
        found: list[Path] = []
        problems_before = len(problems)
        for path in [name] if is_there else sorted(glob.glob(name, recursive=True)):
            found += _files_below(path, leave_out, problems) if os.path.isdir(path) else [Path(path)]
        if not found and len(problems) == problems_before:
            what = "the folder holds" if is_there else "the pattern matches"
            problems.append(f"{word}: {what} no image and no video; check the path")
        for file in found:
            # Links are resolved for the folder only: two links to the same content are two images.
            files.setdefault(os.path.join(os.path.realpath(file.parent), file.name), file)
    return Inputs(list(files.values()), problems)


def _files_below(folder: str, leave_out: Path | None, problems: list[str]) -> Iterator[Path]:
    """Yields the image and video files below a folder, sorted. Follows links; enters each folder once."""

    def add_problem(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror}); check the folder")

    entered = {identity(folder)}
    left_out = None if leave_out is None else identity(leave_out)
    for parent, folders, names in os.walk(folder, onerror=add_problem, followlinks=True):
        for name in sorted(names):
            file = Path(parent, name)
            if not name.startswith(".") and (_IMAGE.fullmatch(file.suffix) or is_video(file)):
                yield file
        to_enter = []
        for name in sorted(folders):
            this = identity(os.path.join(parent, name))
            if not name.startswith(".") and this != left_out and this not in entered:
                entered.add(this)
                to_enter.append(name)
        folders[:] = to_enter
