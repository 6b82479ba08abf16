"""The loss of a global batch and its gradient, computed at once or over micro-batches.

Micro-batches need less memory and give the same numbers up to rounding, because the loss of each is
divided by the normalizers of the global batch. Batch norms with `norm="batch"` are the exception: they
use the statistics of one micro-batch after the other, and their running statistics follow these.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from gfl_jax import config
from gfl_jax.detection_loss import Lesson, Normalizers, detection_losses, loss_normalizers
from gfl_jax.models.conv_gradient import in_a_loop
from gfl_jax.models.network import DetectorNetwork, apply_network
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.parallel.mesh import split_by_batch, split_over_fsdp, tpu_chips
from gfl_jax.structures import Batch, HeadOutputs

Teach = Callable[[Batch], Lesson]
LossAndRest = tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], Any]]


def loss_and_gradient(
    params: Any,
    batch_stats: Any,
    batch: Batch,
    model: DetectorNetwork,
    config: config.Config,
    mesh: Mesh,
    teach: Teach | None = None,
) -> tuple[LossAndRest, Any]:
    """Computes the loss of a global batch and its gradient, sharded over `fsdp`.

    With `config.optimizer.accumulate` above 1, a first scan over the micro-batches sums their
    normalizers, and a second one sums their losses and gradients.

    Args:
      params: the parameters, whole on every device.
      batch_stats: the running statistics.
      batch: the global batch, split over the devices of `mesh`.
      model: the network.
      config: the experiment.
      mesh: from `make_mesh`.
      teach: returns the `Lesson` (the teacher's predictions) of a batch; None: there is no teacher.

    Returns:
      The result of `batch_loss` for the global batch, and its gradient by `params`.
    """
    differentiate = jax.value_and_grad(batch_loss, has_aux=True)
    divided = split_over_fsdp(params, mesh)
    if config.optimizer.accumulate == 1:
        result, grads = differentiate(params, batch_stats, batch, model, config, mesh, teach=teach)
        return result, jax.lax.with_sharding_constraint(grads, divided)
    parts = micro_batches(batch, config.optimizer.accumulate, mesh)

    def count(part: Batch) -> Normalizers:
        # The compiler keeps only the part of this forward pass that the normalizers depend on.
        outputs, _ = run_network(params, batch_stats, part, model, config, mesh)
        return loss_normalizers(outputs, part, config.detector)

    normalizers = jax.tree.map(jnp.sum, jax.lax.map(count, parts))

    def add(carry: tuple[Any, Any], part: Batch) -> tuple[tuple[Any, Any], Any]:
        batch_stats, sums = carry
        with in_a_loop(True):
            (total, (losses, batch_stats)), grads = differentiate(
                params, batch_stats, part, model, config, mesh, normalizers, teach
            )
        sums = jax.lax.with_sharding_constraint(optax.tree.add(sums, grads), divided)
        return (batch_stats, sums), (total, losses)

    zeros = jax.lax.with_sharding_constraint(optax.tree.zeros_like(params), divided)
    (batch_stats, grads), of_parts = jax.lax.scan(add, (batch_stats, zeros), parts)
    total, losses = jax.tree.map(jnp.sum, of_parts)
    return (total, (losses, batch_stats)), grads


def micro_batches(batch: Batch, count: int, mesh: Mesh) -> Batch:
    """Splits a global batch into `count` parts along a new first axis.

    Part m has the rows m, m + count, m + 2 count, ... Thus each device already has its rows of every part.
    """
    sharding = NamedSharding(mesh, PartitionSpec(None, *split_by_batch(mesh).spec))

    def split(x: Array) -> Array:
        parts = jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)
        return jax.lax.with_sharding_constraint(parts, sharding)

    return jax.tree.map(split, batch)


def batch_loss(
    params: Any,
    batch_stats: Any,
    batch: Batch,
    model: DetectorNetwork,
    config: config.Config,
    mesh: Mesh,
    normalizers: Normalizers | None = None,
    teach: Teach | None = None,
) -> LossAndRest:
    """Computes the training loss of a batch.

    Args:
      params: the parameters of the network.
      batch_stats: the running statistics.
      batch: the global batch, or a part of it.
      model: the network.
      config: the experiment.
      mesh: the mesh that the batch is split over.
      normalizers: those of the global batch, if `batch` is a part of it.
      teach: returns the `Lesson` of a batch; None: there is no teacher.

    Returns:
      The total loss, and (each loss by name, the new running statistics).
    """
    outputs, batch_stats = run_network(params, batch_stats, batch, model, config, mesh)
    lesson = None if teach is None else teach(batch)
    with jax.named_scope("losses"):
        per_level = detection_losses(outputs, batch, config.detector, normalizers, lesson=lesson)
    losses = {name: jnp.sum(levels) for name, levels in per_level.items()}
    return sum(losses.values(), jnp.zeros(())), (losses, batch_stats)


def run_network(
    params: Any,
    batch_stats: Any,
    batch: Batch,
    model: DetectorNetwork,
    config: config.Config,
    mesh: Mesh | None = None,
) -> tuple[HeadOutputs, Any]:
    """Runs the network on a batch in training mode.

    Args:
      params: the parameters of the network.
      batch_stats: the running statistics.
      batch: the global batch, or a part of it.
      model: the network.
      config: the experiment.
      mesh: the mesh that the batch is split over; None: the batch is not split.

    Returns:
      The head outputs, and the new running statistics.
    """
    images = normalize_images(batch.images, batch.image_sizes, config.normalization, config.precision)
    variables = {"params": params, "batch_stats": batch_stats}
    how = {"train": True, "mutable": ["batch_stats"]}
    outputs, updates = apply_network(model, variables, images, tpu_chips(mesh), **how)
    return outputs, updates["batch_stats"]
