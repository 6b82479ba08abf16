"""Initial weights of a run from an earlier training. Frozen parts must have such weights."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path
from flax.traverse_util import flatten_dict, unflatten_dict

from gfl_jax.config import Backbone, Config, Detector
from gfl_jax.data.categories import Categories, has_categories, listed, read_categories
from gfl_jax.errors import UserError
from gfl_jax.interop.foreign import detector_shapes, read_matched
from gfl_jax.interop.state_dicts import is_state_dict_file
from gfl_jax.paths import as_path
from gfl_jax.pretrained.published import local_weights, published_classes
from gfl_jax.training.checkpoint import load_variables
from gfl_jax.training.optimizer import trainable_mask
from gfl_jax.training.run_data import has_begun
from gfl_jax.training.state import TrainState

_CLASSIFIER = "params/head/class_logits/"  # its last axis is (anchors, classes)

_TRAIN_ALL = "--config.detector.backbone.frozen_stages=0 --config.detector.backbone.norm=batch"


def check_start(config: Config, workdir: Path) -> None:
    """Checks that the file a run starts from holds all that is never trained, unless the run has begun.

    Raises:
      UserError: frozen stages or frozen statistics would keep random values, or the file cannot be read.
    """
    backbone = config.detector.backbone
    freezes = backbone.frozen_stages > 0 or backbone.norm == "frozen"
    if has_begun(workdir) or not (freezes or config.init_from):
        return
    frozen = f"frozen_stages={backbone.frozen_stages} and norm={backbone.norm} of config.detector.backbone"
    train_all = f"or train the whole backbone: {_TRAIN_ALL}"
    if not config.init_from:
        raise UserError(
            f"config.init_from='': {frozen} would keep random values; give ImageNet weights or a detector "
            f"(--config.init_from=resnet50), {train_all}"
        )
    shapes, file = detector_shapes(config.detector), local_weights(config.init_from)
    if is_state_dict_file(file):
        given = read_matched(file, shapes, config.detector).arrays
    else:
        given = flatten_dict(load_variables(file), sep="/")
    missing = sorted(frozen_paths(shapes, backbone) - _fitting(flatten_dict(shapes, sep="/"), given).keys())
    if missing:
        raise UserError(
            f"config.init_from={config.init_from}: has no values of the right shape for {_first(missing)}; "
            f"{frozen} would keep random values; name another file, {train_all}"
        )


def frozen_paths(variables: Any, backbone: Backbone) -> set[str]:
    """Returns the paths of the weights of frozen stages, and of frozen statistics.

    Norms that are only excluded from training (`train_norm`) do not count: they start as the identity.

    Args:
      variables: {"params": ..., "batch_stats": ...} of arrays or of their shapes.
      backbone: defines what is frozen.
    """
    mask = trainable_mask(variables["params"], dataclasses.replace(backbone, train_norm=True))
    found = {f"params/{path}" for path, trained in flatten_dict(mask, sep="/").items() if not trained}
    if backbone.norm == "frozen":
        found |= {f"batch_stats/{path}" for path in flatten_dict(variables["batch_stats"], sep="/")}
    return found


def start_from_file(
    state: TrainState, name: str, detector: Detector, classes: Categories | None = None
) -> TrainState:
    """Loads what fits from a checkpoint of gfl_jax, or from a PyTorch file (`.safetensors` or `.pth`).

    Args:
      state: the initial state. It keeps the arrays that have no fitting counterpart.
      name: a file or folder, or the name of published weights.
      detector: the detector to train.
      classes: its classes. The classes of gfl_jax checkpoints and of published detectors are matched with
        them by name. Other files name no classes: their classifier is used unchanged if the number of
        classes is equal.

    Raises:
      UserError: the file cannot be read, or nothing in it fits.
    """
    file = local_weights(name)
    if not is_state_dict_file(file):
        variables = load_variables(file)
        if classes is not None and has_categories(as_path(name)):
            variables = match_classifier(
                state.variables, variables, classes, read_categories(as_path(name)), name
            )
        return start_from(state, variables, name)
    theirs = published_classes(name)
    if theirs is None or classes is None:
        matched = read_matched(file, state.variables, detector)
        variables = unflatten_dict(matched.arrays, sep="/")
    else:
        published = dataclasses.replace(detector, num_classes=len(theirs.names))
        matched = read_matched(file, detector_shapes(published), published)
        variables = unflatten_dict(matched.arrays, sep="/")
        variables = match_classifier(state.variables, variables, classes, theirs, name)
    return start_from(state, variables, name, [entry.name for entry in matched.left_over])


def match_classifier(
    own: Any, variables: Any, classes: Categories, theirs: Categories, name: str
) -> dict[str, Any]:
    """Rearranges the classifier of trained variables for the classes of a new detector.

    Args:
      own: the variables of the new detector. They provide the classes that the trained one lacks.
      variables: the trained variables.
      classes: the classes of the new detector.
      theirs: the classes of the trained detector.
      name: the name of the variables in messages.

    Returns:
      `variables`, with the weights of each shared class (by name) at its new label. Without the
      classifier if the detectors share no class.
    """
    if theirs.names == classes.names:
        return dict(variables)
    old_label = {label_name: label for label, label_name in enumerate(theirs.names)}
    shared = [(label, old_label[n]) for label, n in enumerate(classes.names) if n in old_label]
    ours, flat = flatten_dict(own, sep="/"), flatten_dict(variables, sep="/")
    for path in [path for path in flat if path.startswith(_CLASSIFIER)]:
        old, anchors = np.asarray(flat.pop(path)), ours[path].shape[-1] // len(classes.names)
        if not shared or old.shape != (*ours[path].shape[:-1], anchors * len(theirs.names)):
            continue
        new = np.array(ours[path]).reshape(*old.shape[:-1], anchors, len(classes.names))
        to, origin = np.transpose(shared)
        new[..., to] = old.reshape(*old.shape[:-1], anchors, len(theirs.names))[..., origin]
        flat[path] = new.reshape(ours[path].shape)
    if not shared:
        logging.warning(
            "%s: none of its classes (%s) has the name of a class of the data (%s), so class scores are "
            "learned anew; names are case-sensitive",
            *(name, listed(theirs.names), listed(classes.names)),
        )
    elif len(shared) < len(classes.names):
        new_names = [n for n in classes.names if n not in old_label]
        logging.warning("%s: classes are matched by name; newly initialized: %s", name, listed(new_names))
    return unflatten_dict(flat, sep="/")


def start_from(state: TrainState, variables: Any, name: str, left_over: Sequence[str] = ()) -> TrainState:
    """Loads what fits from trained variables. One warning names what does not fit.

    Args:
      state: provides the leaves that `variables` lack or have in another shape, such as those of the
        last layer for other classes.
      variables: {"params": ..., "batch_stats": ...}, or parts of them.
      name: the name of the variables in messages.
      left_over: more entries that the state cannot use, for the warning.

    Raises:
      UserError: nothing fits.
    """
    own, other = flatten_dict(state.variables, sep="/"), flatten_dict(variables, sep="/")
    fitting = {path: jnp.asarray(x, own[path].dtype) for path, x in _fitting(own, other).items()}
    if not fitting:
        raise UserError(f"config.init_from={name}: nothing in it fits this network; name another checkpoint")
    new = [path for path in own if path not in fitting]
    unused = [path for path in other if path not in own] + list(left_over)
    if new or unused:
        logging.warning(
            "%s: loaded %d of %d arrays; newly initialized: %s; unused: %s",
            *(name, len(fitting), len(own), _first(new), _first(unused)),
        )
    merged = unflatten_dict(own | fitting, sep="/")
    params = merged["params"]
    # A copy, because a step donates the memory of both.
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, batch_stats=merged["batch_stats"], ema=ema)


def _fitting(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of `other` that have the same path and shape in `own`."""
    return {path: x for path, x in other.items() if path in own and x.shape == own[path].shape}


def _first(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
