"""What training changes from step to step, and all that a checkpoint has to keep."""

import dataclasses
import functools
import logging
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int

from gfl_jax.errors import UserError


@flax.struct.dataclass
class TrainState:
    """The state after `step` steps; a pytree."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any  # running statistics of the batch norms
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(model: nn.Module, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step: a pure function of its arguments."""
    # On the CPU the compiler would spend longer on optimizing random numbers than on a train step.
    quickly = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(functools.partial(_first_state, model, optimizer), compiler_options=quickly)(seed)


def state_shapes(model: nn.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The shapes and dtypes of the state, without computing one."""
    return jax.eval_shape(functools.partial(_first_state, model, optimizer), 0)


def _first_state(model: nn.Module, optimizer: optax.GradientTransformation, seed: int | Array) -> TrainState:
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
    )


def start_from(state: TrainState, variables: Any, name: str) -> TrainState:
    """Takes over what fits from variables trained before; a line of warning says what does not.

    Args:
      state: gives the leaves that `variables` lack or have in another shape, as those of the
        last layer for other classes.
      variables: {"params": ..., "batch_stats": ...}, or parts of them.
      name: of the variables, in messages.

    Raises:
      UserError: nothing fits.
    """
    own, other = flatten_dict(state.variables, sep="/"), flatten_dict(variables, sep="/")
    fitting = {
        path: jnp.asarray(x) for path, x in other.items() if path in own and x.shape == own[path].shape
    }
    if not fitting:
        raise UserError(f"config.init_from={name}: nothing in it fits this network; name another checkpoint")
    new, unused = [path for path in own if path not in fitting], [path for path in other if path not in own]
    if new or unused:
        logging.warning(
            "%s: %d of %d arrays taken; start anew: %s; without a place: %s",
            *(name, len(fitting), len(own), ", ".join(new) or "none", ", ".join(unused) or "none"),
        )
    merged = unflatten_dict(own | fitting, sep="/")
    return dataclasses.replace(state, params=merged["params"], batch_stats=merged["batch_stats"])
