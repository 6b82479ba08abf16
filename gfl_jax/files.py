"""Files on storage that may fail: written whole or not at all, tried again, and a full disk told apart.

A disk writes under another name and renames. Object storage shows an object once it is whole, and has no
names to change; its library tries again by itself.
"""

import contextlib
import errno
import functools
import logging
import os
import stat
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, BinaryIO, TypeVar, cast

from etils.epath import Path

from gfl_jax.errors import NETWORK_LIBRARIES, UserError
from gfl_jax.paths import is_remote

T = TypeVar("T")

# What networks of disks answer for a moment. Others (no such file, no permission) do not go away by waiting.
PASSING = (
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)
FULL = (errno.ENOSPC, errno.EDQUOT)
_TOLD_IN_WORDS = (errno.EIO, errno.ESTALE, *FULL)  # of storage alone, where the others may be of any network
_TOLD_BY_TENSORSTORE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED")
PAUSES = (1, 2, 4, 8, 16)  # seconds before each further attempt


def retrying(action: Callable[[], T], what: str, pauses: Sequence[float] = PAUSES) -> T:
    """Runs an action that reads or writes, and again, with a warning, if storage fails for a moment.

    Args:
      action: leaves nothing behind when it fails that would be in its own way.
      what: for the messages: a path, and what is done with it.
      pauses: seconds to wait before each further attempt.

    Raises:
      UserError: the disk is full, or storage still fails after all attempts; it is object storage, which
        has been asked again by its library.
      Exception: any other error of the action, at once.
    """
    for pause in (*pauses, None):
        try:
            return action()
        except UserError:
            raise
        except Exception as error:
            if is_remote(what) and is_of_network(error):
                raise UserError(
                    f"{what} ({_reason(error)}); look after the storage, and the same command goes on"
                ) from error
            number = storage_error(error)
            if number in FULL:
                raise UserError(
                    f"{what}: {os.strerror(number)}; make room there, and the same command goes on"
                ) from error
            if number not in PASSING:
                raise
            if pause is None:
                times = f", {len(pauses) + 1} times" if pauses else ""
                raise UserError(
                    f"{what}: {os.strerror(number)}{times}; look after the storage, "
                    "and the same command goes on"
                ) from error
            logging.warning("%s: %s; trying again in %g s", what, os.strerror(number), pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def storage_error(error: BaseException) -> int | None:
    """The number in `PASSING` or `FULL` that an error, or one that led to it, is about; None if none is.

    C++ libraries such as tensorstore put the system's words into errors of other types.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in (*PASSING, *FULL):
            return cause.errno
        for number in _TOLD_IN_WORDS:
            if not isinstance(cause, OSError) and os.strerror(number) in str(cause):
                return number
    return None


def is_of_network(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is what the libraries of object storage raise when it fails.

    That something is not there is none.
    """
    found = list(causes(error))
    return not any(isinstance(cause, FileNotFoundError) for cause in found) and any(
        type(cause).__module__.split(".")[0] in NETWORK_LIBRARIES
        or isinstance(cause, OSError)
        or any(word in str(cause) for word in _TOLD_BY_TENSORSTORE)
        for cause in found
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def identity(path: str | Path) -> tuple[int, int] | str | None:
    """What a path leads to, links followed: the same for all paths to one file; None: to nothing."""
    if is_remote(path):
        return str(path) if Path(path).exists() else None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder and its folders, sorted."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from files_below(path)
        else:
            yield path


def copy_files(folder: Path, target: Path) -> None:
    """Writes all files of a folder and its folders at their places below another one."""
    for file in files_below(folder):
        write_file(target / file.relative_to(folder), file.read_bytes())


def open_file(path: str | Path) -> BinaryIO:
    """Opens a regular file to read bytes; a pipe or a device, which may never end, is not opened.

    Raises:
      UserError: names the file and the cause.
    """
    with _errors_named(path):
        return retrying(lambda: _open_regular(path), f"{path}: cannot be read")


def read_file(path: str | Path) -> bytes:
    """The content of a regular file; errors are those of `open_file`."""

    def read() -> bytes:
        with _open_regular(path) as file:
            return file.read()

    with _errors_named(path):
        return retrying(read, f"{path}: cannot be read")


def writing(action: Callable[[], T], what: str, pauses: Sequence[float] = PAUSES) -> T:
    """`retrying` for an action that writes: whatever else the system refuses is a UserError too."""
    try:
        return retrying(action, what, pauses)
    except OSError as error:
        raise UserError(f"{what} ({_reason(error)}); name another place, or look after this one") from error


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes a file and the folders above it; whenever one looks, it is the old one or the whole new one.

    Raises:
      UserError: names the file and why it cannot be written.
    """
    write_files({Path(path): content})


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Writes files that belong together: wherever it fails or is killed, old and new ones are not mixed.

    Raises:
      UserError: names the file that cannot be written; on a disk, the old ones are all there then.
    """
    encoded = {path: c.encode() if isinstance(c, str) else c for path, c in contents.items()}
    temporary = {path: _temporary(path) for path in contents if not is_remote(path)}
    try:
        for path, other in temporary.items():
            writing(functools.partial(_write, other, encoded[path]), f"{path}: cannot be written")
        for path in list(contents)[1:]:
            writing(functools.partial(path.unlink, missing_ok=True), f"{path}: cannot be written")
        for path, content in encoded.items():
            write = functools.partial(path.write_bytes, content)
            if path in temporary:
                write = functools.partial(_rename, temporary[path], path)
            writing(write, f"{path}: cannot be written")
    finally:
        for path in temporary.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def require_writable(folder: str | Path) -> None:
    """Tries whether files can be written in a folder that may not be there yet, before work is done for them.

    Nothing is left behind. Processes that share the folder must not do it at the same time.

    Raises:
      UserError: names the folder and why it cannot be written.
    """
    folder = Path(folder)
    what = f"{folder}: cannot be written"
    if is_remote(folder):
        return writing(lambda: _try_object(folder / f".try_{uuid.uuid4().hex}"), what)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder}: is a file; name a folder")
    if os.path.islink(folder) and not os.path.exists(folder):
        raise UserError(f"{folder}: is a link to what is not there; name a folder")
    new = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        writing(lambda: _try(folder), what)
    except ValueError as error:  # a zero byte in the name
        raise UserError(f"{str(folder)!r}: cannot be written ({error}); name another place") from error
    finally:
        for place in new:
            with contextlib.suppress(OSError, ValueError):
                os.rmdir(place)


def require_writable_file(path: str | Path) -> None:
    """Tries whether a file can be written, or written anew, and leaves everything as it is.

    Raises:
      UserError: names the file and why it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: is no regular file; name one")
    require_writable(path.parent)
    if is_remote(path):
        return
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: cannot be written ({_reason(error)}); give it another name") from error


def _try(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".try_") as file:
        file.write(b"written")
        file.flush()


def _try_object(path: Path) -> None:
    path.write_bytes(b"written")
    path.unlink()


def _temporary(path: Path) -> Path:
    """A name beside a path that is no longer than names may be, and of this process alone."""
    digest = zlib.crc32(os.fsencode(path.name))
    return path.with_name(f".{path.name[:40]}.{digest:08x}.{os.getpid()}.tmp")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        to_disk(file)


def _rename(temporary: Path, path: Path) -> None:
    if temporary.exists():  # not yet renamed by an attempt that was told to have failed
        os.replace(temporary, path)
        folder_to_disk(path.parent)


def to_disk(file: IO[bytes]) -> None:
    """Comes back when what was written is on disk, so that a power failure leaves no empty file."""
    file.flush()
    with _unless_it_cannot():
        os.fsync(file.fileno())


def folder_to_disk(folder: Path) -> None:
    """The same for the names in a folder: of new, renamed and deleted files."""
    with _unless_it_cannot():
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextlib.contextmanager
def _unless_it_cannot() -> Iterator[None]:
    """Some storage, as of pipes and clusters, has no such thing: then it is done without."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
            raise


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):  # whose text is the object's address, of a bucket's
        return os.strerror(errno.ENOENT)
    told = error.strerror if isinstance(error, OSError) else None
    return told or (str(error).splitlines() or [""])[0] or type(error).__name__


def _open_regular(path: str | Path) -> BinaryIO:
    if is_remote(path):
        return cast(BinaryIO, Path(path).open("rb"))
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "Not a regular file"
        raise UserError(f"{path}: cannot be read ({kind}); name a file")
    return open(path, "rb")


@contextlib.contextmanager
def _errors_named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)}); check the file") from error
    except ValueError as error:  # a zero byte in the name
        raise UserError(f"{str(path)!r}: cannot be read ({error}); check the name") from error
