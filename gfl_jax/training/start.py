"""What a run starts from, where `config.init_from` names weights that were trained before."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from gfl_jax.config import Detector
from gfl_jax.errors import UserError
from gfl_jax.interop.foreign import read_matched
from gfl_jax.interop.state_dicts import is_state_dict_file
from gfl_jax.training.checkpoint import load_variables
from gfl_jax.training.state import TrainState


def start_from_file(state: TrainState, name: str, detector: Detector) -> TrainState:
    """Takes over what fits: of a checkpoint of ours, or of a `.safetensors` or `.pth` file of PyTorch's.

    Raises:
      UserError: it cannot be read, or nothing in it fits.
    """
    name = os.path.expanduser(name)
    if not is_state_dict_file(name):
        return start_from(state, load_variables(name), name)
    matched = read_matched(name, state.variables, detector)
    left_over = [entry.name for entry in matched.left_over]
    return start_from(state, unflatten_dict(matched.arrays, sep="/"), name, left_over)


def start_from(state: TrainState, variables: Any, name: str, left_over: Sequence[str] = ()) -> TrainState:
    """Takes over what fits from variables trained before; a line of warning says what does not.

    Args:
      state: gives the leaves that `variables` lack or have in another shape, as those of the
        last layer for other classes.
      variables: {"params": ..., "batch_stats": ...}, or parts of them.
      name: of the variables, in messages.
      left_over: more that has no place in the state, for the warning.

    Raises:
      UserError: nothing fits.
    """
    own, other = flatten_dict(state.variables, sep="/"), flatten_dict(variables, sep="/")
    fitting = {
        path: jnp.asarray(x, own[path].dtype)
        for path, x in other.items()
        if path in own and x.shape == own[path].shape
    }
    if not fitting:
        raise UserError(f"config.init_from={name}: nothing in it fits this network; name another checkpoint")
    new = [path for path in own if path not in fitting]
    unused = [path for path in other if path not in own] + list(left_over)
    if new or unused:
        logging.warning(
            "%s: %d of %d arrays taken; start anew: %s; without a place: %s",
            *(name, len(fitting), len(own), _first(new), _first(unused)),
        )
    merged = unflatten_dict(own | fitting, sep="/")
    params = merged["params"]
    # A copy, since a step takes over the memory of both.
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, batch_stats=merged["batch_stats"], ema=ema)


def _first(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
