"""Chooses names for output files that are unique, keep the input folders, and never overwrite an input."""

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from gfl_jax.errors import UserError
from gfl_jax.files import identity

_MAX_BYTES = 200  # of a name; file systems allow 255, which leaves room for a prefix and a temporary suffix


def relative_names(paths: Sequence[str | os.PathLike[str]]) -> list[PurePosixPath]:
    """The paths relative to their common folder; the disk is not read.

    The results never leave that folder, even if a path is absolute or contains `..`. So outputs with these
    names stay in the output folder.
    """
    parts = [_inside(os.fspath(path)).parts or ("image",) for path in paths]
    shared = 0
    for column in zip(*(p[:-1] for p in parts), strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return [PurePosixPath(*p[shared:]) for p in parts]


def output_names(
    paths: Sequence[str | os.PathLike[str]], endings: Sequence[str] | None = None, prefix: str = ""
) -> list[Path]:
    """Chooses a unique output name for each input path; names that differ only in letter case count as equal.

    `day1/1.jpg` and `day2/1.jpg` give `day1/1.png` and `day2/1.png`. If two names would be equal, they keep
    the full input name (`a.jpg.png`). If that is taken too, a number is appended.

    Args:
      paths: paths of the inputs.
      endings: endings of the outputs; None: all are ".png".
      prefix: prefix of the file names.

    Returns:
      Paths relative to an output folder, in the order of the inputs.
    """
    relative = relative_names(paths)
    wanted = list(zip(relative, endings or [".png"] * len(relative), strict=True))
    short = [name.with_name(f"{prefix}{_cut(name.stem)}{ending}") for name, ending in wanted]
    times = Counter(map(_key, short))
    taken = {
        _key(folder) for name in relative for folder in name.parents
    }  # a file must not have the name of a folder
    alone = [times[_key(name)] == 1 and _key(name) not in taken for name in short]
    taken.update(_key(name) for name, is_alone in zip(short, alone, strict=True) if is_alone)
    names = []
    for (name, ending), simple, is_alone in zip(wanted, short, alone, strict=True):
        if not is_alone:
            whole = f"{prefix}{_cut(name.name)}"
            numbered = (name.with_name(f"{whole}_{n}{ending}") for n in itertools.count(2))
            candidates = itertools.chain([name.with_name(whole + ending)], numbered)
            simple = next(candidate for candidate in candidates if _key(candidate) not in taken)
            taken.add(_key(simple))
        names.append(Path(simple))
    return names


def require_free(outputs: Iterable[Path], inputs: Iterable[Path], may_replace: bool) -> None:
    """Checks that no output overwrites an input or a file that an earlier run did not write.

    Args:
      outputs: files that will be written.
      inputs: files that are read.
      may_replace: whether existing files that are not inputs may be overwritten.

    Raises:
      UserError: names the first output that would overwrite something.
    """
    outputs = list(outputs)
    files = set(outputs)
    of_inputs = {identity(path) for path in inputs} if any(map(identity, outputs)) else set()
    for path in outputs:
        found = identity(path)
        if found is not None and found in of_inputs:
            raise UserError(f"{path}: is an input and would be overwritten; name another --output")
        if (found is not None or os.path.lexists(path)) and (not may_replace or path.is_dir()):
            raise UserError(f"{path}: exists already and is not from an earlier run; name another --output")
        for folder in path.parents:
            if folder in files or (os.path.lexists(folder) and not folder.is_dir()):
                raise UserError(
                    f"{folder}: is a file, so {path} cannot be written; name another --output, or rename "
                    "the folder of the input"
                )


def _inside(path: str) -> PurePosixPath:
    """Resolves a path as if it started at the root, so `..` cannot leave the root; the root is removed."""
    return PurePosixPath(os.path.normpath("/" + path.lstrip("/"))).relative_to("/")


def _cut(name: str) -> str:
    """Cuts a name to the maximum length."""
    return name.encode("utf-8", "backslashreplace")[:_MAX_BYTES].decode("utf-8", "ignore")


def _key(path: PurePosixPath) -> str:
    """A key that is equal for paths that some file system treats as equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
