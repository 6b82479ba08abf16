"""Reads and writes checkpoints. Only this module and `saving` use Orbax.

A work directory holds `checkpoints/STEP` (the newest checkpoints, to resume from), `best/STEP` (the
variables with the highest AP) and `config.json`. Each checkpoint has the item `variables`: what the
network needs, with the moving average instead of the parameters if there is one. Those in
`checkpoints` also have `training` (the rest of the state); `best` has `score`.
Orbax writes under a temporary name and then renames, so a killed process leaves no partial checkpoint.
Just before the rename, the checksums of all files are written. They reveal later damage.
"""

import itertools
import json
import logging
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from etils.epath import Path
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from gfl_jax.config import Config
from gfl_jax.configuration.config_files import config_differences, config_from_fields, to_json
from gfl_jax.errors import UserError
from gfl_jax.files import read_file, write_file, writing
from gfl_jax.parallel.agreement import from_first, is_first
from gfl_jax.parallel.mesh import with_shardings
from gfl_jax.paths import absolute, as_path
from gfl_jax.training.checksums import find_damage, write_checksums
from gfl_jax.training.saving import close, save, steps_in, unfinished_in
from gfl_jax.training.state import TrainState

# The paths of the data may change between runs of a work directory: `run_data` compares the content.
DATA_PATH_FIELDS = ("config.dataset.tfds_dir", "config.dataset.train_", "config.dataset.eval_")
# These fields may change too: they do not affect trained numbers (the mesh only by rounding).
FREE_FIELDS = (
    *DATA_PATH_FIELDS,
    "config.run.",
    "config.inference.",
    "config.loader.workers",
    "config.loader.cache_images",
    "config.loader.eval_batch_size",
    "config.mesh.",
)


_LOGGER = logging.getLogger(__name__)


def claim_workdir(workdir: Path, config: Config) -> None:
    """Creates the work directory if needed, and writes `config.json` into it.

    Raises:
      UserError: it has checkpoints of another configuration, or its `config.json` cannot be read.
    """
    writing(lambda: workdir.mkdir(parents=True, exist_ok=True), f"{workdir}: cannot be created")
    file = workdir / "config.json"
    text = to_json(config)
    begun = bool(steps_in(workdir / "checkpoints"))
    content = read_file(file) if begun and file.exists() else b""
    if begun and not content.strip():
        logging.warning("%s: is missing or empty; assuming that the checkpoints have this config", file)
    elif begun:
        try:
            saved = config_from_fields(json.loads(content), str(file))
        except (UserError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{file}: cannot be read ({error}), so the checkpoints beside it may have another "
                "configuration; if they have this one, delete the file; otherwise give another --workdir"
            ) from error
        free: tuple[str, ...] = FREE_FIELDS
        if config.detector.backbone.norm == "frozen":  # otherwise micro-batches change the statistics
            free += ("config.optimizer.accumulate",)
        if config.crops is not None:  # training images are crops, whatever these fields are
            free += ("config.loader.buckets", "config.resize.")
        names = [n for n in config_differences(config, saved) if not n.startswith(free)]
        if names:
            raise UserError(
                f"{workdir}: has checkpoints of another configuration, different in {', '.join(names)}; "
                f"give another --workdir, or use the configuration in {file}"
            )
    if is_first():
        write_file(file, text)


class Checkpoints:
    """The checkpoints of a training run."""

    def __init__(self, workdir: Path, keep: int):
        self._folder = workdir / "checkpoints"
        self._latest = _manager(self._folder, keep)
        self._best = _manager(workdir / "best", 1)
        self._broken = workdir / "broken_checkpoints"

    def save(self, state: TrainState, wait: bool = False) -> None:
        """Saves the state under its step, and deletes the oldest checkpoints beyond the number to keep.

        Args:
          state: the state to save. It is skipped if its step is already saved.
          wait: return only when it is on disk; otherwise saving continues in the background.

        Raises:
          UserError: the disk is full, or storage failed too often. The older checkpoints are intact.
        """
        save(self._latest, int(state.step), _save_args(_items(state)), wait)

    def save_best(self, state: TrainState, average_precision: float) -> bool:
        """Saves the variables unless the saved ones have at least this AP. Returns whether it saved.

        The variables are on disk when it returns: a run that resumes from a later step needs them.
        """
        best = from_first(self._best.latest_step() if is_first() else None)
        damage = None if best is None else _damage(Path(self._best.directory) / str(best))
        if best is not None and damage is not None:
            self._set_aside(self._best, best, damage)
        elif best is not None:
            kept = self._best.restore(best, args=ocp.args.Composite(score=ocp.args.JsonRestore()))
            if from_first(kept.score["average_precision"] >= average_precision):
                return False
        score = ocp.args.JsonSave({"average_precision": average_precision})
        arrays = ocp.args.StandardSave(state.evaluated)
        args = ocp.args.Composite(variables=arrays, score=score)
        save(self._best, int(state.step), args, wait=True)
        return True

    def restore_latest(self, shapes: TrainState, shardings: Any) -> TrainState | None:
        """Restores the newest checkpoint that can be read.

        Checkpoints that cannot be read are skipped. Once an older one has been read, they are moved to
        `broken_checkpoints`, each with a warning that names it.

        Args:
          shapes: the expected state, as arrays or `jax.ShapeDtypeStruct`s.
          shardings: one sharding, or a pytree of them. The devices and their number may differ from
            those that saved the checkpoint.

        Returns:
          The state; None if there is no checkpoint.

        Raises:
          UserError: the checkpoint has other shapes, or there are checkpoints but none can be read.
        """
        target = with_shardings(shapes, shardings)
        broken: dict[int, str] = {}
        for step in from_first(sorted(self._latest.all_steps(), reverse=True)):
            damage = _damage(self._folder / str(step))
            if damage is None:
                restored = self._restore(step, target)
                for bad in broken:
                    self._set_aside(self._latest, bad, broken[bad])
                return restored
            broken[step] = damage
        if broken:
            raise UserError(
                f"{self._folder}: no checkpoint in it can be read ({broken[max(broken)]}); "
                "restore one from a backup, or give another --workdir to start from the beginning"
            )
        return None

    def latest(self) -> Path | None:
        """Waits for a background save, then returns the directory of the newest checkpoint, if any."""
        self._latest.wait_until_finished()
        step = self._latest.latest_step()
        return None if step is None else self._folder / str(step)

    def close(self) -> None:
        """Waits for background saves and closes. A failed one is handled as in `saving.close`."""
        close(self._latest)
        close(self._best)

    def _restore(self, step: int, target: TrainState) -> TrainState:
        items = _items(target)
        _check_shapes(items, self._latest.item_metadata(step), self._folder / str(step))
        restored = self._latest.restore(step, args=_restore_args(items))
        return _state(restored.variables, restored.training)

    def _set_aside(self, manager: ocp.CheckpointManager, step: int, damage: str) -> None:
        if is_first():
            folder = Path(manager.directory) / str(step)
            target = _unused(self._broken / f"{folder.parent.name}_{step}")
            target.parent.mkdir(exist_ok=True)
            # Object storage has no empty folders: this file creates the folder, and records the reason.
            write_file(target.with_name(f"{target.name}.txt"), f"{folder}: {damage}\n")
            folder.rename(target)
            logging.warning("%s: cannot be read (%s); moved to %s", folder, damage, target)
        multihost_utils.sync_global_devices(f"set aside {step}")
        manager.reload()


def _damage(folder: Path) -> str | None:
    """Runs `find_damage` on the first process and shares the result, since all processes must act alike."""
    return from_first(find_damage(folder) if is_first() else None)


def load_variables(path: str | Path) -> dict[str, Any]:
    """Reads the variables {"params", "batch_stats"} of a checkpoint as numpy arrays.

    Args:
      path: a work directory (its best checkpoint is read, else its latest), a directory of
        checkpoints, or one checkpoint.

    Raises:
      UserError: there is no checkpoint, or it cannot be read.
    """
    folder = _find_step(as_path(path))
    damage = find_damage(folder)
    if damage:
        raise UserError(f"{folder}: this checkpoint cannot be read ({damage}); name another one")
    _LOGGER.info("%s: reading this checkpoint", folder)
    return read_item(folder, "variables")


def read_item(folder: Path, item: Literal["variables", "training"]) -> Any:
    """Reads an item of a checkpoint as nested dicts and lists of numpy arrays."""
    options = ocp.CheckpointManagerOptions(create=False)
    step, folder = int(folder.name), absolute(folder).parent
    here = SingleDeviceSharding(jax.local_devices()[0])
    with ocp.CheckpointManager(folder, options=options, item_handlers=_handlers()) as manager:
        target = with_shardings(manager.item_metadata(step)[item].tree, here)
        return jax.device_get(manager.restore(step, args=_restore_args({item: target}))[item])


def _find_step(path: Path) -> Path:
    path = absolute(path)
    if (path / "variables").is_dir() and path.name.isdigit():
        return path
    for folder in (path / "best", path / "checkpoints", path):
        steps = steps_in(folder)
        if steps:
            return folder / str(steps[-1])
    raise UserError(f"{path}: has no checkpoint; name a work directory of `main.py train`, or a checkpoint")


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    def before_renaming() -> None:
        if is_first():
            for unfinished in unfinished_in(folder):
                write_checksums(unfinished)

    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=before_renaming),
        # Without its own prefix, a manager that saves in the background would meet the other's barriers.
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name),
    )
    return ocp.CheckpointManager(absolute(folder), options=options, item_handlers=_handlers())


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    arrays = ("variables", "training")
    return {name: ocp.StandardCheckpointHandler() for name in arrays} | {"score": ocp.JsonCheckpointHandler()}


def _items(state: TrainState) -> dict[str, Any]:
    training = {"step": state.step, "opt_state": state.opt_state}
    if state.ema is not None:  # `variables` holds the average, so the trained parameters go here
        training["params"] = state.params
    return {"variables": state.evaluated, "training": training}


def _state(variables: dict[str, Any], training: dict[str, Any]) -> TrainState:
    if "params" in training:
        return TrainState(**training, batch_stats=variables["batch_stats"], ema=variables["params"])
    return TrainState(**variables, **training)


def _save_args(items: dict[str, Any]) -> ocp.args.Composite:
    return ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()})


def _restore_args(items: dict[str, Any]) -> ocp.args.Composite:
    return ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in items.items()})


def _check_shapes(items: dict[str, Any], metadata: Any, folder: Path) -> None:
    for name, tree in items.items():
        wanted, found = _leaf_shapes(tree), _leaf_shapes(metadata[name].tree)
        for leaf in [*wanted, *found]:
            if wanted.get(leaf) != found.get(leaf):
                raise UserError(
                    f"{folder}: this checkpoint is of another network or optimizer ({name}/{leaf} has shape "
                    f"{found.get(leaf, 'none')}, not {wanted.get(leaf, 'none')}); give another --workdir"
                )


def _leaf_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape) for path, x in leaves}


def _unused(path: Path) -> Path:
    names = itertools.chain([path.name], (f"{path.name}_{i}" for i in itertools.count(1)))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())
