"""Saving with Orbax on storage that may fail.

Orbax writes in the background, and raises what it met there at the next wait. Then that checkpoint is
lost, so the state of the next one is written at once, and again if storage fails for a moment. No older
checkpoint is deleted before a newer one is on disk: Orbax sees to that.

Several processes write a checkpoint together, and none can try again alone: there the run ends, and the
same commands go on from the last checkpoint.
"""

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp
from etils.epath import Path

from gfl_jax.errors import UserError
from gfl_jax.files import PAUSES, is_of_network, storage_error, writing
from gfl_jax.parallel.agreement import is_first
from gfl_jax.paths import is_remote


def save(manager: ocp.CheckpointManager, step: int, args: ocp.args.Composite, wait: bool) -> None:
    """Saves a step, unless it is there.

    Args:
      manager: of the folder.
      step: the number of the checkpoint.
      args: what is saved.
      wait: come back when it is on disk; otherwise it may go on in the background.

    Raises:
      UserError: the disk is full, or storage has failed too often; the older checkpoints are there.
    """
    _tell_errors_once()
    alone, failed = jax.process_count() == 1, False

    def attempt() -> None:
        nonlocal failed
        try:
            manager.save(step, args=args)
            if wait or failed:
                _wait(manager)
        except Exception:
            failed = True
            if alone:
                _make_room(manager)
            raise

    try:
        failed = not _finish(manager)
        if step not in manager.all_steps():
            writing(attempt, f"{manager.directory}: a checkpoint cannot be written", PAUSES if alone else ())
    except UserError as error:
        good = max(steps_in(Path(manager.directory)), default=None)
        last = "there is none yet" if good is None else f"the last good one is {good}"
        raise UserError(f"{error} ({last})") from error


def close(manager: ocp.CheckpointManager) -> None:
    """Waits until a save in the background is on disk, or has failed, which gives a warning."""
    _finish(manager)
    manager.close()


def steps_in(folder: Path) -> list[int]:
    """The steps with a checkpoint in a directory, in order; none if there is no directory."""
    return sorted(int(child.name) for child in _folders_in(folder) if _is_finished(child))


def unfinished_in(folder: Path) -> list[Path]:
    """What saves that are under way, or failed, have written so far."""
    return [child for child in _folders_in(folder) if not _is_finished(child) and _is_of_a_save(child)]


def _folders_in(folder: Path) -> list[Path]:
    return [child for child in Path(folder).iterdir() if child.is_dir()] if folder.is_dir() else []


def _is_of_a_save(folder: Path) -> bool:
    return folder.name.isdigit() or ".orbax-checkpoint-tmp" in folder.name


def _is_finished(folder: Path) -> bool:
    """On a disk Orbax renames what is finished; object storage has no names to change, and gets a mark."""
    return folder.name.isdigit() and (not is_remote(folder) or (folder / "commit_success.txt").exists())


def _finish(manager: ocp.CheckpointManager) -> bool:
    """Waits for the save in the background; whether there was none, or all went well."""
    try:
        _wait(manager)
    except Exception as error:
        number = storage_error(error)
        if number is None and not (is_remote(manager.directory) and is_of_network(error)):
            raise
        reason = os.strerror(number) if number is not None else (str(error).splitlines() or [""])[0]
        what = f"{manager.directory}: a checkpoint was not written: {reason}"
        if jax.process_count() > 1:
            raise UserError(f"{what}; look after the storage, and the same command goes on") from error
        _make_room(manager)
        logging.warning(what)
        return False
    return True


def _wait(manager: ocp.CheckpointManager) -> None:
    """Waits for the save in the background, and raises its error.

    With several processes Orbax would first wait ten minutes for the others, which wait for this one.
    Until then its thread keeps the error (`check_for_errors` has nothing to tell), but it logs it.
    """
    while jax.process_count() > 1 and manager.is_saving_in_progress():
        if _met_in_background:
            raise _met_in_background.pop()
        time.sleep(0.02)
    manager.wait_until_finished()
    _met_in_background.clear()


def _make_room(manager: ocp.CheckpointManager) -> None:
    """Deletes what a failed save has left; what was there before it stays."""
    if is_first():
        for unfinished in unfinished_in(Path(manager.directory)):
            with contextlib.suppress(OSError):
                unfinished.rmtree()
    manager.reload()


def _tell_errors_once() -> None:
    """Drops the pages that Orbax and tensorstore print of a failed save; the error itself is raised."""
    logging.getLogger("absl").addFilter(_is_no_failed_save)
    if getattr(sys.unraisablehook, "func", None) is not _except_closed_loops:
        sys.unraisablehook = functools.partial(_except_closed_loops, sys.unraisablehook)


def _is_no_failed_save(record: logging.LogRecord) -> bool:
    """Keeps the error of a failed save, and drops its page; all else that Orbax logs passes."""
    if not record.exc_info or f"{os.sep}orbax{os.sep}" not in record.pathname:
        return True
    if record.exc_info[1] is not None and jax.process_count() > 1:
        _met_in_background.append(record.exc_info[1])
    return False


_met_in_background: list[BaseException] = []


def _except_closed_loops(hook: Callable[..., object], unraisable: "sys.UnraisableHookArgs") -> None:
    # tensorstore tells each array of a failed save to Orbax's event loop, which the first one has ended
    if "Event loop is closed" not in str(unraisable.exc_value):
        hook(unraisable)
