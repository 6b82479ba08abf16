"""Starts and ends the processes of a run together, even if one of them fails or is lost.

jax notices a lost process by its missing heartbeats. By default it then aborts the others with a page of
C++ output. Here they end with one line. This needs private parts of jax, which only this file uses.
"""

import contextlib
import ctypes
import functools
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import rich
from jax._src import distributed as jax_distributed
from jax._src.lib import _jax

from gfl_jax.errors import UserError, error_line, one_line
from gfl_jax.files import causes
from gfl_jax.parallel.agreement import is_first

LOST_STATUS = 3  # the exit status of a process whose peer was lost
# Keys of jax's key-value store: processes that ended after an error, with status and line; all that ended.
_ENDED, _LEFT = "gfl_jax/ended", "gfl_jax/left"
_PREEMPTED = "RECEIVED_PREEMPTION_NOTICE"  # jax's own key, set once a process has received SIGTERM


@contextlib.contextmanager
def processes(
    launch: dict[str, Any],
    heartbeat_seconds: int = 100,
    stop_together: bool = False,
    start_seconds: int = 300,
) -> Iterator[None]:
    """Runs the block in each of several processes.

    Must come before any other use of jax. Processes other than the first print only errors. If a process
    is lost (killed, frozen, cut off) or does not start in time, the others print a line about it and end
    with status 3, at most `heartbeat_seconds` + 5 later. A process with an error of its own ends at once,
    because waiting for the others could take forever, and reports the error to them. They print its line
    and end with its status. Bad input on one host is thus bad input of the run.

    Args:
      launch: from `launch.find_launch`.
      heartbeat_seconds: seconds without a heartbeat before a process counts as lost.
      stop_together: whether SIGTERM is a request to stop, for
        `multihost_utils.reached_preemption_sync_point`.
      start_seconds: seconds that the processes wait for one another at the start.

    Raises:
      UserError: the processes cannot start.
    """
    _start(launch, heartbeat_seconds, stop_together, start_seconds)
    client: Any = jax_distributed.global_state.client
    everyone = list(range(jax.process_count()))
    if not is_first():
        for logger in ("", "gfl_jax"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        rich.reconfigure(quiet=True)
    ending = threading.Event()
    watchers = [
        threading.Thread(target=_watch, args=(client, everyone, heartbeat_seconds, ending), daemon=True),
        threading.Thread(target=_listen, args=(client, len(everyone), ending), daemon=True),
    ]
    for watcher in watchers:
        watcher.start()
    try:
        yield
    except BaseException as error:
        _end_after(error, client, heartbeat_seconds, ending)
    client.wait_at_barrier("gfl_jax/end", 24 * 3600 * 1000)
    ending.set()
    for watcher in watchers:
        watcher.join()
    while is_first() and len(client.get_live_nodes(everyone)) > 1:
        time.sleep(0.05)  # process 0 hosts the service, so it leaves last
    jax.distributed.shutdown()


def stop_requested() -> bool:
    """Returns whether a process of the run has received SIGTERM. jax tells all processes, some later."""
    client: Any = jax_distributed.global_state.client
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the key is not set
        client.key_value_try_get(_PREEMPTED)
        return True
    return False


def _start(launch: dict[str, Any], heartbeat_seconds: int, stop_together: bool, start_seconds: int) -> None:
    # The loss of a "recoverable" process is not fatal to jax, and `get_live_nodes` shows which one is lost.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", stop_together)
    make_client = _jax.get_distributed_runtime_client
    _jax.get_distributed_runtime_client = functools.partial(
        make_client, missed_heartbeat_callback=_end_at_missed_heartbeat
    )
    try:
        jax.distributed.initialize(
            **launch, initialization_timeout=start_seconds, heartbeat_timeout_seconds=heartbeat_seconds
        )
    except (RuntimeError, ValueError, OSError) as error:
        state = jax_distributed.global_state
        reason = str(error).splitlines()[0]
        if "bad_cast" in reason:
            _end_lost(
                f"not all of the {state.num_processes} processes started within {start_seconds} s, or "
                f"process 0 did not answer at {state.coordinator_address}; start all of them, with the same "
                "--coordinator and --num-processes, and each with its own --process-id"
            )
        elif "start RPC server" in reason:
            reason = (
                f"process 0 cannot listen at {state.coordinator_address}; choose another port of this machine"
            )
        _end_after(UserError(f"the processes of the run cannot start: {reason}"))
    finally:
        _jax.get_distributed_runtime_client = make_client
    _end_with_process_0(jax.process_count())


def _end_at_missed_heartbeat(status: object) -> None:
    """Replaces jax's abort of the process. jaxlib 0.10 cannot call this: see `_end_with_process_0`."""
    _end_lost(f"another process was lost ({status}); start all processes again with the same command")


def _listen(client: Any, count: int, ending: threading.Event) -> None:
    """Ends this process when another one reports that it ended after an error."""
    while not ending.wait(0.5):
        with contextlib.suppress(RuntimeError):  # process 0 does not answer
            reports = client.key_value_dir_get(_ENDED)
            if reports and not ending.wait(1):  # unless this process has the same error
                number, report = min((int(key.rsplit("/", 1)[-1]), report) for key, report in reports)
                status, line = json.loads(report)
                print(f"error: {line} (process {number} of {count})", file=sys.stderr)
                _exit(status, client)


def _watch(client: Any, everyone: list[int], heartbeat_seconds: int, ending: threading.Event) -> None:
    """Ends this process when another one has stopped sending heartbeats."""
    while not ending.wait(1):
        try:  # the answer comes once all live processes have asked
            lost = sorted(set(everyone) - set(client.get_live_nodes(everyone)))
        except RuntimeError:  # process 0 does not answer; `_end_with_process_0` will act
            continue
        if lost and not ending.wait(1):
            _end_without(lost, len(everyone), f"no heartbeat for {heartbeat_seconds} s")


def _end_with_process_0(count: int) -> None:
    """Makes this process end with one line when jax loses process 0, which hosts the heartbeats of all.

    jax then calls `missed_heartbeat_callback` with a C++ status that has no Python type in jaxlib 0.10. The
    call throws `std::bad_cast` on its own thread, and that ends in C++'s terminate handler. Therefore this
    function replaces the terminate handler.
    """
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        bad_cast = ctypes.addressof(ctypes.c_char.in_dll(library, "_ZTISt8bad_cast"))
        exception_type, set_terminate = (
            library["__cxa_current_exception_type"],
            library["_ZSt13set_terminatePFvvE"],
        )
    except (OSError, ValueError, AttributeError):  # not Linux: the process still ends, with C++'s message
        return
    exception_type.restype = set_terminate.restype = ctypes.c_void_p

    def terminate() -> None:
        if exception_type() == bad_cast:
            _end_without([0], count, "it does not answer")
        default()

    handler = ctypes.CFUNCTYPE(None)(terminate)
    _kept.append(handler)
    default = ctypes.CFUNCTYPE(None)(set_terminate(handler))


_kept: list[Any] = []  # C++ may call these until the process ends


def _end_without(lost: list[int], count: int, why: str) -> NoReturn:
    which = f"process {lost[0]}" if len(lost) == 1 else f"processes {', '.join(map(str, lost))}"
    _end_lost(
        f"{which} of {count} {'was' if len(lost) == 1 else 'were'} lost ({why}); start all processes "
        "again with the same command to resume from the last checkpoint"
    )


def _end_lost(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    _exit(LOST_STATUS)


def _end_after(
    error: BaseException,
    client: Any = None,
    heartbeat_seconds: int = 0,
    ending: threading.Event | None = None,
) -> NoReturn:
    """Ends this process after an error. jax's own exit would wait for the others, and they for this one."""
    if any(_is_of_network(cause) for cause in causes(error)):
        time.sleep(3)  # most likely another process has ended or is lost, and the watcher will name it
        reason = one_line(error)[:300]
        message = f"communication between the processes failed, most likely because one is lost: {reason}"
        print(message, file=sys.stderr, flush=True)
        time.sleep(heartbeat_seconds + 2)
    if ending is not None:
        ending.set()
    words = error_line(error)
    if words is None:
        traceback.print_exception(error)
    else:
        print(f"error: {words}", file=sys.stderr, flush=True)
    status = 1 if words is None else 2
    if client is not None:
        with contextlib.suppress(RuntimeError):  # let all print an error that all of them have
            client.wait_at_barrier("gfl_jax/error", 2000)
        line = words or one_line("".join(traceback.format_exception_only(error)).strip())
        with contextlib.suppress(RuntimeError):
            client.key_value_set(f"{_ENDED}/{jax.process_index()}", json.dumps([status, line]))
    _exit(status, client)


def _is_of_network(error: BaseException) -> bool:
    """Returns whether an error is about communication between the processes, not about one of them."""
    return isinstance(error, (RuntimeError, ValueError)) and any(
        word in str(error) for word in ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Connection ")
    )


def _exit(status: int, client: Any = None) -> NoReturn:
    """Ends this process, even if its main thread waits in C++ for a lost process."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(RuntimeError, AttributeError):
        client.key_value_set(f"{_LEFT}/{jax_distributed.global_state.process_id}", "")
    if jax_distributed.global_state.service is not None:  # stay until the others have read the keys
        end, everyone = time.monotonic() + 5, jax_distributed.global_state.num_processes
        left = 0
        while client is not None and left < everyone and time.monotonic() < end:
            time.sleep(0.1)
            with contextlib.suppress(RuntimeError):
                left = len(client.key_value_dir_get(_LEFT))
        time.sleep(0.5 if client is not None else 2)
    os._exit(status)
