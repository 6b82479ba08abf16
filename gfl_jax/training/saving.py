"""Saves with Orbax on storage that may fail.

Orbax writes in the background, and raises an error from there at the next wait. That checkpoint is then
lost, so the next one is written in the foreground, with retries if storage fails temporarily. Orbax
deletes no older checkpoint before a newer one is on disk.

Several processes write a checkpoint together, and none can retry alone. Then the run ends, and the same
commands resume it from the last checkpoint.
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
    """Saves a step, unless it is already saved.

    Args:
      manager: the manager of the folder.
      step: the number of the checkpoint.
      args: the items to save.
      wait: return only when it is on disk; otherwise saving may continue in the background.

    Raises:
      UserError: the disk is full, or storage failed too often. The older checkpoints are intact.
    """
    _silence_failed_saves()
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
                _delete_unfinished(manager)
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
    """Waits for a background save. If it failed, one process logs a warning; several raise `UserError`."""
    _finish(manager)
    manager.close()


def steps_in(folder: Path) -> list[int]:
    """Returns the steps with a checkpoint in a directory, in order. Empty if there is no directory."""
    return sorted(int(child.name) for child in _folders_in(folder) if _is_finished(child))


def unfinished_in(folder: Path) -> list[Path]:
    """Returns the folders of saves that are running or have failed."""
    return [child for child in _folders_in(folder) if not _is_finished(child) and _is_of_a_save(child)]


def _folders_in(folder: Path) -> list[Path]:
    return [child for child in Path(folder).iterdir() if child.is_dir()] if folder.is_dir() else []


def _is_of_a_save(folder: Path) -> bool:
    return folder.name.isdigit() or ".orbax-checkpoint-tmp" in folder.name


def _is_finished(folder: Path) -> bool:
    """Returns whether a save is finished. Orbax then renames it on a disk, or adds a file in a bucket."""
    return folder.name.isdigit() and (not is_remote(folder) or (folder / "commit_success.txt").exists())


def _finish(manager: ocp.CheckpointManager) -> bool:
    """Waits for the background save. Returns False if it failed."""
    try:
        _wait(manager)
    except Exception as error:
        number = storage_error(error)
        if number is None and not (is_remote(manager.directory) and is_of_network(error)):
            raise
        reason = os.strerror(number) if number is not None else (str(error).splitlines() or [""])[0]
        message = f"{manager.directory}: a checkpoint was not written: {reason}"
        if jax.process_count() > 1:
            raise UserError(f"{message}; check the storage, then rerun the same command") from error
        _delete_unfinished(manager)
        logging.warning(message)
        return False
    return True


def _wait(manager: ocp.CheckpointManager) -> None:
    """Waits for the background save, and raises its error.

    With several processes Orbax would first wait ten minutes for the others, and they wait for this one.
    Until then its thread keeps the error (`check_for_errors` does not raise it), but it logs the error.
    """
    while jax.process_count() > 1 and manager.is_saving_in_progress():
        if _background_errors:
            raise _background_errors.pop()
        time.sleep(0.02)
    manager.wait_until_finished()
    _background_errors.clear()


def _delete_unfinished(manager: ocp.CheckpointManager) -> None:
    """Deletes what a failed save left. Finished checkpoints stay."""
    if is_first():
        for unfinished in unfinished_in(Path(manager.directory)):
            with contextlib.suppress(OSError):
                unfinished.rmtree()
    manager.reload()


def _silence_failed_saves() -> None:
    """Suppresses the tracebacks that Orbax and tensorstore print for a failed save; its error is raised."""
    logging.getLogger("absl").addFilter(_is_no_failed_save)
    if getattr(sys.unraisablehook, "func", None) is not _except_closed_loops:
        sys.unraisablehook = functools.partial(_except_closed_loops, sys.unraisablehook)


def _is_no_failed_save(record: logging.LogRecord) -> bool:
    """Drops the log record of a failed save, and keeps its error. Other records pass."""
    if not record.exc_info or f"{os.sep}orbax{os.sep}" not in record.pathname:
        return True
    if record.exc_info[1] is not None and jax.process_count() > 1:
        _background_errors.append(record.exc_info[1])
    return False


_background_errors: list[BaseException] = []


def _except_closed_loops(hook: Callable[..., object], unraisable: "sys.UnraisableHookArgs") -> None:
    # tensorstore reports each array of a failed save to Orbax's event loop, which the first report closed
    if "Event loop is closed" not in str(unraisable.exc_value):
        hook(unraisable)
