"""What a user names to look at: image and video files, folders of them, and patterns."""

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
    """The files, each once, in the order in which they were named; and what is wrong with the rest."""

    files: list[Path]
    problems: list[str]  # a line for each word that led to no file


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its ending."""
    return _VIDEO.fullmatch(path.suffix) is not None


def find_inputs(words: Sequence[str], leave_out: Path | None = None) -> Inputs:
    """The files that words name: a file stands for itself, a folder for all images and videos below it.

    A word with `*`, `?` or `[` that is no file's name is a pattern; `~` is the home folder. Folders are
    sorted. In folders, hidden files are left out.

    Args:
      words: of the command line.
      leave_out: a folder that is not entered on the way through others.
    """
    files: dict[str, Path] = {}
    problems: list[str] = []
    for word in words:
        if is_remote(word):
            problems.append(f"{word}: images to look at must be on this machine; copy them to a folder here")
            continue
        name = os.path.expanduser(word)
        is_there = os.path.lexists(name)
        if not is_there and not glob.has_magic(name):
            problems.append(f"{word or repr(word)}: cannot be read (No such file or directory); name images")
            continue
        found: list[Path] = []
        told = len(problems)
        for path in [name] if is_there else sorted(glob.glob(name, recursive=True)):
            found += _files_below(path, leave_out, problems) if os.path.isdir(path) else [Path(path)]
        if not found and len(problems) == told:
            what = "the folder holds" if is_there else "the pattern matches"
            problems.append(f"{word}: {what} no image and no video; name some")
        for file in found:
            # Only the folder's links are followed: two links to one content are two images.
            files.setdefault(os.path.join(os.path.realpath(file.parent), file.name), file)
    return Inputs(list(files.values()), problems)


def _files_below(folder: str, leave_out: Path | None, problems: list[str]) -> Iterator[Path]:
    """Image and video files, sorted; links to folders are followed, each folder is entered once."""

    def tell(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror}); check the folder")

    entered = {identity(folder)}
    left_out = None if leave_out is None else identity(leave_out)
    for parent, folders, names in os.walk(folder, onerror=tell, followlinks=True):
        for name in sorted(names):
            file = Path(parent, name)
            if not name.startswith(".") and (_IMAGE.fullmatch(file.suffix) or is_video(file)):
                yield file
        shown = []
        for name in sorted(folders):
            this = identity(os.path.join(parent, name))
            if not name.startswith(".") and this != left_out and this not in entered:
                entered.add(this)
                shown.append(name)
        folders[:] = shown
