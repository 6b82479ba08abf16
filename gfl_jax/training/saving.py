"""Saving with Orbax on storage that may fail.

Orbax writes in the background, and raises what it met there at the next wait. Then that checkpoint is
lost, so the state of the next one is written at once, and again if storage fails for a moment. No older
checkpoint is deleted before a newer one is on disk: Orbax does so itself.
"""

import functools
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from gfl_jax.errors import UserError
from gfl_jax.files import PAUSES, retrying, storage_error


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
    failed = not _finish(manager)
    if step in manager.all_steps():
        return

    def attempt() -> None:
        nonlocal failed
        try:
            manager.save(step, args=args)
            if wait or failed:
                manager.wait_until_finished()
        except Exception:
            failed = True
            _make_room(manager)
            raise

    # Several processes cannot try again each for itself: the run ends, and goes on from the last checkpoint.
    pauses = PAUSES if jax.process_count() == 1 else ()
    try:
        retrying(attempt, f"{manager.directory}: a checkpoint cannot be written", pauses)
    except UserError as error:
        good = manager.latest_step()
        last = "there is none yet" if good is None else f"the last good one is {good}"
        raise UserError(f"{error} ({last})") from error


def close(manager: ocp.CheckpointManager) -> None:
    """Waits until a save in the background is on disk, or has failed, which gives a warning."""
    _finish(manager)
    manager.close()


def _finish(manager: ocp.CheckpointManager) -> bool:
    """Waits for the save in the background; whether there was none, or all went well."""
    try:
        manager.wait_until_finished()
    except Exception as error:
        number = storage_error(error)
        if number is None:
            raise
        _make_room(manager)
        logging.warning("%s: a checkpoint was not written: %s", manager.directory, os.strerror(number))
        return False
    return True


def _make_room(manager: ocp.CheckpointManager) -> None:
    """Deletes what a failed save has left; what was there before it stays."""
    if jax.process_index() == 0:
        for unfinished in Path(manager.directory).glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
    manager.reload()


def _tell_errors_once() -> None:
    """Drops the pages that Orbax and tensorstore print of a failed save; the error itself is raised."""
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    if getattr(sys.unraisablehook, "func", None) is not _except_closed_loops:
        sys.unraisablehook = functools.partial(_except_closed_loops, sys.unraisablehook)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _except_closed_loops(hook: Callable[..., object], unraisable: "sys.UnraisableHookArgs") -> None:
    # tensorstore tells each array of a failed save to Orbax's event loop, which the first one has ended
    if "Event loop is closed" not in str(unraisable.exc_value):
        hook(unraisable)
