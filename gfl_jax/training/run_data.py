"""The data of a run: read and checked before the first step, and the same whenever the run goes on.

From its start a work directory holds `categories.json`, the classes by name, and `data.npz`, the content
of its data. Neither is changed once there are checkpoints.
"""

import logging
from typing import NamedTuple

from etils.epath import Path

from gfl_jax.config import Config
from gfl_jax.data.categories import Categories, has_categories, listed, read_categories, write_categories
from gfl_jax.data.identity import as_known, known_of, read_known, write_known
from gfl_jax.data.loader import has_eval_data, make_source, tell_shapes
from gfl_jax.data.source import Source, match_classes, require_same_classes
from gfl_jax.errors import UserError
from gfl_jax.training.saving import steps_in

FILE = "data.npz"

_LOGGER = logging.getLogger(__name__)


class RunData(NamedTuple):
    """Both data sets, with the labels of the detector and in the order in which the run began with them."""

    train: Source
    evaluation: Source | None  # None: the config names no data for evaluation
    classes: Categories


def open_run_data(config: Config, workdir: Path) -> RunData:
    """Reads the data of a config and compares them with those that a run in `workdir` began with.

    Classes are matched by name, images and boxes by content; their order does not matter.

    Raises:
      UserError: the data are missing, broken or others than before, or cannot be used for training or
        evaluation.
    """
    train, owner = make_source(config, "train"), f"the run in {workdir}"
    begun = has_begun(workdir)
    if begun and has_categories(workdir):
        classes = read_categories(workdir)
        train = require_same_classes(train, classes, owner)
    else:
        classes = Categories(train.categories, tuple(id for id in train.category_ids if id is not None))
    if has_eval_data(config):
        evaluation = _open_evaluation(config, classes, train.name)
    else:
        evaluation = None
        _LOGGER.info("config.dataset names no data for evaluation: the result is the last checkpoint")
    if begun and (workdir / FILE).is_file():
        known = read_known(workdir / FILE)
        if "train" in known:
            train = as_known(train, known["train"], owner)
        if "eval" in known and evaluation is not None:
            evaluation = as_known(evaluation, known["eval"], owner)
    tell_shapes(train, config, training=True)
    if evaluation is not None:
        tell_shapes(evaluation, config, training=False)
    return RunData(train, evaluation, classes)


def keep_run_data(workdir: Path, data: RunData) -> None:
    """Writes what the run is to know of its data, unless it is there already."""
    begun, file = has_begun(workdir), workdir / FILE
    if not begun or not has_categories(workdir):
        write_categories(workdir, data.classes)
    known = read_known(file) if begun and file.is_file() else {}
    if begun and not known:
        _LOGGER.warning("%s: there is no record of the data that the run began with; taken to be these", file)
    sources = {"train": data.train, "eval": data.evaluation}
    new = {name: known_of(x) for name, x in sources.items() if x is not None and name not in known}
    if new:
        write_known(file, known | new)


def has_begun(workdir: Path) -> bool:
    """Whether a work directory has checkpoints, which hold on to its classes and data."""
    return bool(steps_in(workdir / "checkpoints"))


def _open_evaluation(config: Config, classes: Categories, owner: str) -> Source:
    """The evaluation data in the labels of the training data."""
    matched = match_classes(make_source(config, "eval"), classes, f"the classes of {owner}")
    if matched.foreign:
        raise UserError(
            f"{matched.source.name}: its classes {listed(matched.foreign)} are not in {owner}, so that no "
            "detector can find them; add them there, or take them out here"
        )
    if matched.missing:
        _LOGGER.info(
            "%s: has no class %s: AP is that of the others", matched.source.name, listed(matched.missing)
        )
    if not matched.source.annotated:
        raise UserError(
            f"{matched.source.name}: has no annotations, so that nothing can be evaluated during training; "
            "name annotated data, or none (an empty config.dataset.eval_json and eval_images, or eval_split)"
        )
    return matched.source
