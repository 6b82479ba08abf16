"""The learning rate of each step, and the optimizer.

Everything follows PyTorch and mmdetection: the learning rate is linear warm-up times decay, SGD adds
the weight decay to the gradient before the momentum, and frozen stages get no update.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from gfl_jax import config

Params = Any  # a nested dict of arrays, as Flax makes it


def scaled_learning_rate(optimizer: config.Optimizer, batch_size: int) -> float:
    """Scales the learning rate linearly with the size of the global batch (Goyal et al. 2017)."""
    if optimizer.reference_batch_size is None:
        return optimizer.learning_rate
    return optimizer.learning_rate * batch_size / optimizer.reference_batch_size


def make_schedule(schedule: config.Schedule, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of completed steps.

    The warm-up is mmengine's `LinearLR`: it rises from `warmup_factor` at step 0 to the full rate at
    step `warmup_steps - 1`. It is multiplied by the decay. The decay is either a factor `decay_factor`
    at each milestone, or half a cosine from the end of the warm-up to zero at the end of the run.
    Milestones are shares of `total_steps` (8/12 of 12 epochs is the end of the eighth).
    """

    def rate(step: Int[Array, ""] | int) -> Float[Array, ""]:
        done = jnp.asarray(step, float)
        return learning_rate * warmup(done) * (cosine(done) if schedule.decay == "cosine" else drops(done))

    def warmup(done: Array) -> Array:
        if not schedule.warmup_steps:
            return jnp.ones_like(done)
        share = done / max(schedule.warmup_steps - 1, 1)
        return jnp.minimum(schedule.warmup_factor + (1 - schedule.warmup_factor) * share, 1)

    def drops(done: Array) -> Array:
        steps = jnp.array([round(share * total_steps) for share in schedule.milestones], float)
        return schedule.decay_factor ** jnp.sum(done >= steps)

    def cosine(done: Array) -> Array:
        share = (done - schedule.warmup_steps) / max(total_steps - schedule.warmup_steps, 1)
        return (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1))) / 2

    return rate


def make_optimizer(
    optimizer: config.Optimizer,
    learning_rate: optax.Schedule,
    backbone: config.Backbone = config.Backbone(frozen_stages=0),
) -> optax.GradientTransformation:
    """Makes SGD with momentum or AdamW for the trained parameters. Frozen parameters get zero updates.

    SGD decays every trained parameter (biases of convolutions only if `decay_biases`). AdamW decays only
    parameters with more than one axis. Gradients are clipped by the global norm over the trained
    parameters, before the decay is added.
    """
    clip = optax.identity() if optimizer.clip_norm is None else optax.clip_by_global_norm(optimizer.clip_norm)
    if optimizer.kind == "sgd":
        rule = optax.chain(
            optax.add_decayed_weights(
                optimizer.weight_decay, lambda params: _map_biases(params, optimizer.decay_biases, True)
            ),
            optax.trace(optimizer.momentum),
            optax.masked(optax.scale(optimizer.bias_rate), lambda params: _map_biases(params, True, False)),
            optax.scale_by_learning_rate(learning_rate),
        )
    else:
        rule = optax.adamw(
            learning_rate,
            b1=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        )

    def label(params: Params) -> Params:
        return jax.tree.map(lambda keep: "trained" if keep else "frozen", trainable_mask(params, backbone))

    return optax.partition({"trained": optax.chain(clip, rule), "frozen": optax.set_to_zero()}, label)


def trainable_mask(params: Params, backbone: config.Backbone) -> Params:
    """Returns a tree like `params` that is False for frozen parameters.

    Args:
      params: the parameters, with the stem under backbone/conv1 and backbone/bn1, and block i of stage k
        (from 1) under backbone/layer{k}_{i}.
      backbone: only its `frozen_stages` and `train_norm` are used.
    """
    frozen = tuple(f"layer{k}_" for k in range(1, backbone.frozen_stages + 1))
    frozen += ("conv1", "bn1") if backbone.frozen_stages else ()

    def trained(path: tuple[Any, ...], _: Array) -> bool:
        part, name, module = path[0].key, path[1].key, path[-2].key
        is_frozen_norm = _is_norm(module) and not backbone.train_norm
        return part != "backbone" or not (name.startswith(frozen) or is_frozen_norm)

    return jax.tree_util.tree_map_with_path(trained, params)


def _map_biases(params: Params, bias: bool, other: bool) -> Params:
    """Returns a tree like `params` with `bias` for the biases of convolutions and `other` for the rest."""

    def choose(path: tuple[Any, ...], _: Array) -> bool:
        is_bias = path[-1].key == "bias" and not _is_norm(path[-2].key)
        return bias if is_bias else other

    return jax.tree_util.tree_map_with_path(choose, params)


def _is_norm(module: str) -> bool:
    return re.search(r"(^|_)(bn\d*|gn)$", module) is not None


def trained_only(tree: Params, mask: Params) -> Params:
    """Keeps the leaves of `tree` whose mask is True. The others become None (an empty subtree)."""
    return jax.tree.map(lambda leaf, keep: leaf if keep else None, tree, mask)
