"""One training step, compiled as one function of the state and a global batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from gfl_jax import config
from gfl_jax.detection_loss import Lesson
from gfl_jax.models.network import DetectorNetwork
from gfl_jax.parallel.compiler_options import compiler_options
from gfl_jax.parallel.mesh import replicated, split_by_batch, split_over_fsdp
from gfl_jax.structures import Batch
from gfl_jax.training.gradient import loss_and_gradient
from gfl_jax.training.optimizer import trainable_mask, trained_only
from gfl_jax.training.state import TrainState, state_shapes, update_ema
from gfl_jax.training.teacher import Teacher, box_maps

Metrics = dict[str, Array]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    model: DetectorNetwork,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    config: config.Config,
    mesh: Mesh,
    teacher: Teacher | None = None,
) -> TrainStep:
    """Makes the jit-compiled train step. It is compiled once for each shape of a batch.

    The step takes a state sharded by `split_over_fsdp` (its memory is donated to the new state) and a
    global batch split over all devices. It returns the new state and these scalars: each loss by its
    name, their sum "loss", "gradient_norm" of the trained parameters before clipping, "learning_rate",
    and "finite". If the loss or the norm is NaN or infinite, "finite" is False and the new state is the
    old one.

    With a `teacher` the step also takes the teacher's variables, whole on every device.
    """
    decay = config.optimizer.ema_decay
    shapes = state_shapes(model, optimizer, ema=decay is not None)
    whole, divided = replicated(mesh), split_over_fsdp(shapes, mesh)

    def step(state: TrainState, batch: Batch, *teacher_variables: Any) -> tuple[TrainState, Metrics]:
        def lesson(part: Batch) -> Lesson:
            assert teacher is not None
            with jax.named_scope("teacher"):
                return Lesson(box_maps(teacher, teacher_variables[0], part, mesh), config.distillation)

        params = jax.lax.with_sharding_constraint(state.params, whole)
        (total, (losses, batch_stats)), grads = loss_and_gradient(
            params, state.batch_stats, batch, model, config, mesh, lesson if teacher else None
        )
        mask = trainable_mask(grads, config.detector.backbone)
        norm = optax.tree.norm(trained_only(grads, mask))
        finite = jnp.isfinite(total) & jnp.isfinite(norm)

        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        ema = None if decay is None else update_ema(state.ema, params, state.step + 1, decay)
        new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)

        metrics = {**losses, "loss": total, "gradient_norm": norm}
        return new, metrics | {"learning_rate": learning_rate(state.step), "finite": finite}

    return jax.jit(
        step,
        in_shardings=(divided, split_by_batch(mesh), *((whole,) if teacher else ())),
        out_shardings=(divided, whole),
        donate_argnums=0,
        compiler_options=compiler_options(mesh, config.compiler),
    )
