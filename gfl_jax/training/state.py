"""What training changes from step to step, and all that a checkpoint has to keep."""

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
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))
    return with_variables(variables, optimizer)


def with_variables(variables: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step of training that starts from given variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
    )
