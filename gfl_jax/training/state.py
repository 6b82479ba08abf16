"""The training state: what changes from step to step, and all that a checkpoint must hold."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from gfl_jax.parallel.compiler_options import quick_options


@flax.struct.dataclass
class TrainState:
    """The state after `step` steps; a pytree."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any  # running statistics of the batch norms
    opt_state: Any
    ema: Any = None  # moving average of `params`, if the config asks for one

    @property
    def variables(self) -> dict[str, Any]:
        """The trained variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> dict[str, Any]:
        """The variables for evaluation and inference, with the moving average if there is one."""
        return {"params": self.params if self.ema is None else self.ema, "batch_stats": self.batch_stats}


def update_ema(ema: Any, params: Any, step: Int[Array, ""], decay: float) -> Any:
    """Updates the moving average after a step: decay_t * ema + (1 - decay_t) * params.

    Here decay_t = min(decay, (1 + t) / (10 + t)), as in TensorFlow's `ExponentialMovingAverage`. Thus the
    average soon forgets the first parameters.

    Args:
      ema: the average before the step.
      params: the parameters after the step.
      step: t, the number of completed steps, including this one.
      decay: below 1.
    """
    done = jnp.asarray(step, float)
    share = 1 - jnp.minimum(decay, (1 + done) / (10 + done))
    # In this form the average of constant values, such as frozen parameters, is bit-identical to them.
    return jax.tree.map(lambda old, new: old + share.astype(old.dtype) * (new - old), ema, params)


def create_state(
    model: nn.Module, optimizer: optax.GradientTransformation, seed: int, ema: bool = False
) -> TrainState:
    """Makes the state before the first step. A pure function of its arguments."""
    # Otherwise the compiler would spend more time on the random numbers than on a train step.
    make = jax.jit(
        functools.partial(_first_state, model, optimizer, ema),
        compiler_options=quick_options(jax.default_backend()),
    )
    return make(seed)


def state_shapes(model: nn.Module, optimizer: optax.GradientTransformation, ema: bool = False) -> TrainState:
    """Returns the shapes and dtypes of the state, without computing it."""
    return jax.eval_shape(functools.partial(_first_state, model, optimizer, ema), 0)


def _first_state(
    model: nn.Module, optimizer: optax.GradientTransformation, ema: bool, seed: int | Array
) -> TrainState:
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=variables["params"] if ema else None,
    )
