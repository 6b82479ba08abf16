"""One step of training as one compiled function of the state and a global batch."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from gfl_jax import config
from gfl_jax.detection_loss import detection_losses
from gfl_jax.mesh import replicated, split_by_batch, split_over_fsdp
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.structures import Batch
from gfl_jax.training.optimizer import trainable_mask, trained_only
from gfl_jax.training.state import TrainState, state_shapes

Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    config: config.Config,
    mesh: Mesh,
) -> TrainStep:
    """Makes the jit-compiled train step, compiled once for each shape of a batch.

    The step takes a state divided as `split_over_fsdp` does it (its memory is given over to the
    new one) and a global batch split over all devices, and returns the new state and scalars:
    each loss by its name, their sum "loss", "gradient_norm" of the trained parameters before clipping,
    "learning_rate", and "finite". Where "finite" is False, because the loss or the norm is
    NaN or infinite, the new state is the old one.
    """

    whole, divided = replicated(mesh), split_over_fsdp(state_shapes(model, optimizer), mesh)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(batch_loss, has_aux=True)
        params = jax.lax.with_sharding_constraint(state.params, whole)
        (total, (losses, batch_stats)), grads = gradient(params, state.batch_stats, batch, model, config)
        grads = jax.lax.with_sharding_constraint(grads, divided.params)
        mask = trainable_mask(grads, config.detector.backbone)
        norm = optax.tree.norm(trained_only(grads, mask))
        finite = jnp.isfinite(total) & jnp.isfinite(norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, batch_stats, opt_state)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)

        metrics = {**losses, "loss": total, "gradient_norm": norm}
        return new, metrics | {"learning_rate": learning_rate(state.step), "finite": finite}

    return jax.jit(
        step, in_shardings=(divided, split_by_batch(mesh)), out_shardings=(divided, whole), donate_argnums=0
    )


def batch_loss(
    params: Any, batch_stats: Any, batch: Batch, model: nn.Module, config: config.Config
) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], Any]]:
    """The training loss of a batch.

    Returns:
      The total, and (each loss by name, the new running statistics).
    """
    images = normalize_images(batch.images, batch.image_sizes, config.normalization, config.precision)
    outputs, updates = model.apply(
        {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
    )
    per_level = detection_losses(outputs, batch, config.detector)
    losses = {name: jnp.sum(levels) for name, levels in per_level.items()}
    return sum(losses.values(), jnp.zeros(())), (losses, updates["batch_stats"])
