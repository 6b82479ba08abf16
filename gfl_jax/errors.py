"""The exception that stands for a mistake of the user, not of the program; errors as lines and statuses."""

import io
import os
import select
import sys
from collections.abc import Callable

# Whose errors tell of the network and of credentials: the libraries of object storage.
NETWORK_LIBRARIES = ("aiohttp", "gcsfs", "google", "requests", "urllib3")


class UserError(Exception):
    """Bad input: one line that names the file, field or value and says what to do.

    The command line prints it on stderr and exits with status 2, without a traceback.
    """


def one_line(text: object) -> str:
    """A text on one line that every terminal takes: what cannot be printed, as in odd file names, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def in_words(error: BaseException) -> str | None:
    """The line for a person about an error that is no fault of the program; None for all others."""
    if isinstance(error, UserError):
        return one_line(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)  # jax's, of a device
    ):
        return (
            "not enough memory; lower config.loader.batch_size (train), config.loader.eval_batch_size "
            "(evaluate, predict, analyze) or config.loader.workers, or take smaller images"
        )
    if type(error).__module__.split(".")[0] in NETWORK_LIBRARIES:
        reason = one_line(str(error) or type(error).__name__)
        return f"the bucket cannot be used ({reason}); check network and credentials, then run it again"
    return None


def exit_status(command: Callable[[], int]) -> int:
    """Runs a command; bad input and too little memory are one line on stderr and the status 2.

    A reader of the output that went away, as in `... | head`, ends it quietly with the status 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of users, in letters that it may not take
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
        words = in_words(error)
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        return 2


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads; nothing is written to it from then on."""
    try:
        stdout = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, as under a test
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone
