"""Reads and writes files on storage that may fail: complete writes only, retries, and clear errors.

On a disk, a file is written under another name and then renamed. Object storage cannot rename, but it shows
an object only once it is complete, and its library retries by itself.
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

# Temporary errors of network storage. Other errors (no such file, no permission) do not go away with time.
TRANSIENT = (
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
_FOUND_IN_TEXT = (errno.EIO, errno.ESTALE, *FULL)  # only storage errors; the others may concern any network
_TENSORSTORE_ERRORS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED")
PAUSES = (1, 2, 4, 8, 16)  # seconds before each retry


def retrying(action: Callable[[], T], what: str, pauses: Sequence[float] = PAUSES) -> T:
    """Runs an action that reads or writes; after a temporary storage error it warns and retries.

    Args:
      action: the action; it must be safe to run again after a failure.
      what: start of the messages: a path and the problem, such as "PATH: cannot be read".
      pauses: seconds before each retry.

    Raises:
      UserError: the disk is full, the storage still fails after all retries, or object storage fails (its
        library has retried already).
      Exception: any other error of the action, without a retry.
    """
    for pause in (*pauses, None):
        try:
            return action()
        except UserError:
            raise
        except Exception as error:
            if is_remote(what) and is_of_network(error):
                raise UserError(
                    f"{what} ({_reason(error)}); check the storage, then rerun the same command"
                ) from error
            number = storage_error(error)
            if number in FULL:
                raise UserError(
                    f"{what}: {os.strerror(number)}; free some space there, then rerun the same command"
                ) from error
            if number not in TRANSIENT:
                raise
            if pause is None:
                times = f", {len(pauses) + 1} times" if pauses else ""
                raise UserError(
                    f"{what}: {os.strerror(number)}{times}; check the storage, then rerun the same command"
                ) from error
            logging.warning("%s: %s; trying again in %g s", what, os.strerror(number), pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def storage_error(error: BaseException) -> int | None:
    """The errno in `TRANSIENT` or `FULL` of an error or of one of its causes; None if there is none.

    C++ libraries such as tensorstore put the text of a system error into errors of other types.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in (*TRANSIENT, *FULL):
            return cause.errno
        for number in _FOUND_IN_TEXT:
            if not isinstance(cause, OSError) and os.strerror(number) in str(cause):
                return number
    return None


def is_of_network(error: BaseException) -> bool:
    """Whether an error or one of its causes is a failure of object storage.

    A missing object does not count as a failure.
    """
    found = list(causes(error))
    return not any(isinstance(cause, FileNotFoundError) for cause in found) and any(
        type(cause).__module__.split(".")[0] in NETWORK_LIBRARIES
        or isinstance(cause, OSError)
        or any(word in str(cause) for word in _TENSORSTORE_ERRORS)
        for cause in found
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def identity(path: str | Path) -> tuple[int, int] | str | None:
    """Identifies the file at a path; equal for all paths and links to one file; None if there is no file."""
    if is_remote(path):
        return str(path) if Path(path).exists() else None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def files_below(folder: Path) -> Iterator[Path]:
    """Yields all files in a folder and its subfolders, sorted."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from files_below(path)
        else:
            yield path


def copy_files(folder: Path, target: Path) -> None:
    """Copies all files in a folder and its subfolders to the same relative paths in another folder."""
    for file in files_below(folder):
        write_file(target / file.relative_to(folder), file.read_bytes())


def open_file(path: str | Path) -> BinaryIO:
    """Opens a regular file to read bytes; refuses pipes and devices, which may never end.

    Raises:
      UserError: names the file and the cause.
    """
    with _errors_named(path):
        return retrying(lambda: _open_regular(path), f"{path}: cannot be read")


def read_file(path: str | Path) -> bytes:
    """Reads the content of a regular file; raises the same errors as `open_file`."""

    def read() -> bytes:
        with _open_regular(path) as file:
            return file.read()

    with _errors_named(path):
        return retrying(read, f"{path}: cannot be read")


def writing(action: Callable[[], T], what: str, pauses: Sequence[float] = PAUSES) -> T:
    """Like `retrying`, but for an action that writes: every other system error becomes a UserError too."""
    try:
        return retrying(action, what, pauses)
    except OSError as error:
        raise UserError(f"{what} ({_reason(error)}); name another path, or fix the problem there") from error


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes a file and its parent folders; at any moment the file is the old one or the complete new one.

    Raises:
      UserError: names the file and says why it cannot be written.
    """
    write_files({Path(path): content})


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Writes files that belong together; old and new files are never mixed, even if the process is killed.

    Raises:
      UserError: names the file that cannot be written. On a disk the old files stay, unless a rename fails.
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
    """Checks before any work that files can be written in a folder, which may not exist yet.

    It leaves no files or folders behind. Processes that share the folder must not call it at the same time.

    Raises:
      UserError: names the folder and says why it cannot be written.
    """
    folder = Path(folder)
    what = f"{folder}: cannot be written"
    if is_remote(folder):
        return writing(lambda: _write_test_object(folder / f".try_{uuid.uuid4().hex}"), what)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder}: is a file; name a folder")
    if os.path.islink(folder) and not os.path.exists(folder):
        raise UserError(f"{folder}: is a broken link; name a folder")
    new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        writing(lambda: _write_test_file(folder), what)
    except ValueError as error:  # a zero byte in the name
        raise UserError(f"{str(folder)!r}: cannot be written ({error}); name another path") from error
    finally:
        for path in new:
            with contextlib.suppress(OSError, ValueError):
                os.rmdir(path)


def require_writable_file(path: str | Path) -> None:
    """Checks that a file can be written or overwritten; changes nothing.

    Raises:
      UserError: names the file and says why it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: is not a regular file; name another path")
    require_writable(path.parent)
    if is_remote(path):
        return
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # for example, the name is too long
        raise UserError(f"{path}: cannot be written ({_reason(error)}); name another path") from error


def _write_test_file(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".try_") as file:
        file.write(b"written")
        file.flush()


def _write_test_object(path: Path) -> None:
    path.write_bytes(b"written")
    path.unlink()


def _temporary(path: Path) -> Path:
    """A temporary path in the same folder, unique to this process and not too long for a file system."""
    digest = zlib.crc32(os.fsencode(path.name))
    return path.with_name(f".{path.name[:40]}.{digest:08x}.{os.getpid()}.tmp")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        sync_file(file)


def _rename(temporary: Path, path: Path) -> None:
    if temporary.exists():  # false if an earlier attempt renamed it and then reported a failure
        os.replace(temporary, path)
        sync_folder(path.parent)


def sync_file(file: IO[bytes]) -> None:
    """Waits until the content of a file is on disk, so a power failure leaves no empty file."""
    file.flush()
    with _ignore_unsupported():
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on disk, after files were created, renamed or deleted."""
    with _ignore_unsupported():
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _ignore_unsupported() -> Iterator[None]:
    """Ignores errors of storage that does not support fsync, such as pipes and some cluster file systems."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
            raise


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):  # in object storage, its text is only the address of the object
        return os.strerror(errno.ENOENT)
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or (str(error).splitlines() or [""])[0] or type(error).__name__


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
