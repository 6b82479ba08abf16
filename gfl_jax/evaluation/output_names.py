"""Names of files that are made from other files: unique, folders kept apart, and never an input's."""

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from gfl_jax.errors import UserError
from gfl_jax.files import identity

_LONGEST = 200  # bytes of a name, where file systems take 255: a prefix and a temporary name's marks fit too


def relative_names(paths: Sequence[str | os.PathLike[str]]) -> list[PurePosixPath]:
    """The paths, relative to the folder that all of them have in common.

    Nothing on disk is asked. Names that are absolute or climb with `..` stay inside all the same, so that
    what is made from them stays in the folder it is meant for.
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
    """A name for what is made from each path: unique, also where letter case does not count.

    `day1/1.jpg` and `day2/1.jpg` give `day1/1.png` and `day2/1.png`. Where two names would be one, the
    whole old name stays (`a.jpg.png`), and a number follows if that is taken too.

    Args:
      paths: of the inputs.
      endings: of the outputs; None: all are ".png".
      prefix: what the file names begin with.

    Returns:
      Paths to go below an output folder, in the order of the inputs.
    """
    relative = relative_names(paths)
    wanted = list(zip(relative, endings or [".png"] * len(relative), strict=True))
    short = [name.with_name(f"{prefix}{_cut(name.stem)}{ending}") for name, ending in wanted]
    times = Counter(map(_key, short))
    taken = {_key(folder) for name in relative for folder in name.parents}  # no file may be called so
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
    """Checks that no output would take the place of an input, or of a file that is not ours.

    Args:
      outputs: what will be written.
      inputs: what it is made from.
      may_replace: whether files that are there, and are no inputs, may be written anew.

    Raises:
      UserError: names the first output whose place is taken.
    """
    outputs = list(outputs)
    files = set(outputs)
    of_inputs = {identity(path) for path in inputs} if any(map(identity, outputs)) else set()
    for path in outputs:
        found = identity(path)
        if found is not None and found in of_inputs:
            raise UserError(f"{path}: is an input and would be overwritten; name another --output")
        if (found is not None or os.path.lexists(path)) and (not may_replace or path.is_dir()):
            raise UserError(
                f"{path}: is there already, and not made by an earlier run; name another --output"
            )
        for folder in path.parents:
            if folder in files or (os.path.lexists(folder) and not folder.is_dir()):
                raise UserError(
                    f"{folder}: is a file, so that {path} cannot be made; name another --output, or rename "
                    "the folder of the input"
                )


def _inside(path: str) -> PurePosixPath:
    """A path as one from the root on, of which `..` cannot climb further; without the root."""
    return PurePosixPath(os.path.normpath("/" + path.lstrip("/"))).relative_to("/")


def _cut(name: str) -> str:
    """The beginning of a name that is too long."""
    return name.encode("utf-8", "backslashreplace")[:_LONGEST].decode("utf-8", "ignore")


def _key(path: PurePosixPath) -> str:
    """The same for paths that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
