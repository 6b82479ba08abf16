"""The exception for mistakes of the user, and the conversion of errors to messages and exit statuses."""

import io
import os
import select
import sys
from collections.abc import Callable

# The libraries of object storage; their errors are about the network or credentials.
NETWORK_LIBRARIES = ("aiohttp", "gcsfs", "google", "requests", "urllib3")


class UserError(Exception):
    """Bad input; the one-line message names the file, field or value and says what to do.

    The command line prints it on stderr, without a traceback, and exits with status 2.
    """


def one_line(text: object) -> str:
    """The text on one line; unprintable characters, which file names may contain, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def error_line(error: BaseException) -> str | None:
    """A one-line message for an error that is not a bug of the program; None for other errors."""
    if isinstance(error, UserError):
        return one_line(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and "RESOURCE_EXHAUSTED" in str(error)  # from jax: a device is out of memory
    ):
        return (
            "not enough memory; lower config.loader.batch_size (train), config.loader.eval_batch_size "
            "(evaluate, predict, analyze) or config.loader.workers, or use smaller images"
        )
    if type(error).__module__.split(".")[0] in NETWORK_LIBRARIES:
        reason = one_line(str(error) or type(error).__name__)
        return f"the bucket cannot be used ({reason}); check network and credentials, then rerun the command"
    return None


def exit_status(command: Callable[[], int]) -> int:
    """Runs a command; bad input and too little memory give one line on stderr and status 2.

    If the reader of the output exits, as in `... | head`, the command ends silently with status 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding may lack letters of user-given names
            stream.reconfigure(errors="backslashreplace")
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 1
    except Exception as error:
        line = error_line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe without a reader; if so, stdout is redirected to the null device."""
    try:
        stdout = sys.stdout.fileno()
    except (OSError, ValueError):  # stdout is not a file, as in tests
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone
