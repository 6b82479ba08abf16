"""Reads and checks the data of a run before the first step. A resumed run must have the same data.

From the start of a run its work directory holds `categories.json`, the classes by name, and `data.npz`,
a record of the content of the data. What they record is not changed once there are checkpoints.
"""

import logging
from typing import NamedTuple

from etils.epath import Path

from gfl_jax.config import Config
from gfl_jax.data.categories import Categories, has_categories, listed, read_categories, write_categories
from gfl_jax.data.identity import in_recorded_order, read_records, record_of, write_records
from gfl_jax.data.loader import has_eval_data, log_shapes, make_source
from gfl_jax.data.source import Source, match_classes, require_same_classes
from gfl_jax.errors import UserError
from gfl_jax.training.saving import steps_in

FILE = "data.npz"

_LOGGER = logging.getLogger(__name__)


class RunData(NamedTuple):
    """Training and evaluation data, with the detector's labels, in their order at the start of the run."""

    train: Source
    evaluation: Source | None  # None: the config names no evaluation data
    classes: Categories


def open_run_data(config: Config, workdir: Path) -> RunData:
    """Reads the data of a config and compares them with the data that a run in `workdir` started with.

    Classes are matched by name, images and boxes by content. Their order does not matter.

    Raises:
      UserError: the data are missing or broken, differ from those at the start, or cannot be used for
        training or evaluation.
    """
    train, owner = make_source(config, "train"), f"the run in {workdir}"
    begun = has_begun(workdir)
    if begun and has_categories(workdir):
        classes = read_categories(workdir)
        train = require_same_classes(train, classes, owner)
    else:
        classes = classes_of(train)
    if has_eval_data(config):
        evaluation = open_evaluation(config, classes, train.name)
    else:
        evaluation = None
        _LOGGER.info("config.dataset names no evaluation data; the result is the last checkpoint")
    if begun and (workdir / FILE).is_file():
        known = read_records(workdir / FILE)
        if "train" in known:
            train = in_recorded_order(train, known["train"], owner)
        if "eval" in known and evaluation is not None:
            evaluation = in_recorded_order(evaluation, known["eval"], owner)
    log_shapes(train, config, training=True)
    if evaluation is not None:
        log_shapes(evaluation, config, training=False)
    return RunData(train, evaluation, classes)


def classes_of(source: Source) -> Categories:
    """The classes of training data, which a new detector gets."""
    return Categories(source.categories, tuple(id for id in source.category_ids if id is not None))


def write_run_data(workdir: Path, data: RunData) -> None:
    """Writes the classes and a record of the data of a run, unless they were written before."""
    begun, file = has_begun(workdir), workdir / FILE
    if not begun or not has_categories(workdir):
        write_categories(workdir, data.classes)
    known = read_records(file) if begun and file.is_file() else {}
    if begun and not known:
        _LOGGER.warning("%s: is missing; assuming that the run started with the current data", file)
    sources = {"train": data.train, "eval": data.evaluation}
    new = {name: record_of(x) for name, x in sources.items() if x is not None and name not in known}
    if new:
        write_records(file, known | new)


def has_begun(workdir: Path) -> bool:
    """Returns whether a work directory has checkpoints. They fix its classes and data."""
    return bool(steps_in(workdir / "checkpoints"))


def open_evaluation(config: Config, classes: Categories, owner: str) -> Source:
    """Reads the evaluation data with the labels of the training data.

    Args:
      config: the experiment.
      classes: the classes of the training data.
      owner: name of the training data, for messages.

    Raises:
      UserError: the data are missing or broken, have classes that the training data lack, or have no
        annotations.
    """
    matched = match_classes(make_source(config, "eval"), classes, f"the classes of {owner}")
    if matched.foreign:
        raise UserError(
            f"{matched.source.name}: its classes {listed(matched.foreign)} are not in {owner}, so the "
            "detector cannot learn them; add them there, or remove them here"
        )
    if matched.missing:
        _LOGGER.info(
            "%s: has no class %s; AP is over the others", matched.source.name, listed(matched.missing)
        )
    if not matched.source.annotated:
        raise UserError(
            f"{matched.source.name}: has no annotations, so it cannot be evaluated during training; name "
            "annotated data, or none (leave config.dataset.eval_json and eval_images, or eval_split, empty)"
        )
    return matched.source
