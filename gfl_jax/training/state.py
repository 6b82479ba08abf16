"""What training changes from step to step, and all that a checkpoint has to keep."""

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
    ema: Any = None  # moving average of `params`, where the config asks for one

    @property
    def variables(self) -> dict[str, Any]:
        """What is trained, as `model.apply` takes it."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> dict[str, Any]:
        """What is evaluated and used after training: the moving average, where there is one."""
        return {"params": self.params if self.ema is None else self.ema, "batch_stats": self.batch_stats}


def update_ema(ema: Any, params: Any, step: Int[Array, ""], decay: float) -> Any:
    """The moving average after a step: decay_t * ema + (1 - decay_t) * params.

    Here decay_t = min(decay, (1 + t) / (10 + t)), as TensorFlow's `ExponentialMovingAverage` has it, so
    that the first parameters are soon forgotten.

    Args:
      ema: the average before.
      params: the parameters after the step.
      step: t, the number of steps done, this one included.
      decay: below 1.
    """
    done = jnp.asarray(step, float)
    share = 1 - jnp.minimum(decay, (1 + done) / (10 + done))
    # In this form what stands still, as frozen parameters do, is its own average to the last bit.
    return jax.tree.map(lambda old, new: old + share.astype(old.dtype) * (new - old), ema, params)


def create_state(
    model: nn.Module, optimizer: optax.GradientTransformation, seed: int, ema: bool = False
) -> TrainState:
    """The state before the first step: a pure function of its arguments."""
    # The compiler would spend longer on optimizing random numbers than on a train step.
    make = jax.jit(
        functools.partial(_first_state, model, optimizer, ema),
        compiler_options=quick_options(jax.default_backend()),
    )
    return make(seed)


def state_shapes(model: nn.Module, optimizer: optax.GradientTransformation, ema: bool = False) -> TrainState:
    """The shapes and dtypes of the state, without computing one."""
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
