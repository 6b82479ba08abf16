"""What training changes from step to step, and all that a checkpoint has to keep."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


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
