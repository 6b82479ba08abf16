import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gfl_jax import config
from gfl_jax.training.optimizer import (
    make_optimizer,
    make_schedule,
    scaled_learning_rate,
    trainable_mask,
    trained_only,
)

REFERENCE = Path(__file__).parents[1] / "data" / "reference" / "units.npz"


def rates(schedule, learning_rate, total_steps, steps):
    function = jax.jit(make_schedule(schedule, learning_rate, total_steps))
    return np.array([function(step) for step in steps])


def test_warmup_equals_the_reference():
    expected = np.load(REFERENCE)["lr/warmup600"]
    found = rates(config.Schedule(), 0.01, 10_000_000, range(600))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rates_drop_tenfold_after_epochs_8_and_11_of_12():
    per_epoch = 7330
    schedule = config.Schedule(epochs=12)
    found = rates(schedule, 0.01, 12 * per_epoch, [8 * per_epoch - 1, 8 * per_epoch, 11 * per_epoch - 1])
    np.testing.assert_allclose(found, [0.01, 0.001, 0.001], rtol=1e-6)
    np.testing.assert_allclose(rates(schedule, 0.01, 12 * per_epoch, [11 * per_epoch]), 0.0001, rtol=1e-6)


def test_cosine_falls_from_the_full_rate_after_warmup_to_zero():
    schedule = config.Schedule(warmup_steps=10, decay="cosine")
    found = rates(schedule, 0.2, 110, [10, 60, 110, 120])
    np.testing.assert_allclose(found, [0.2, 0.1, 0, 0], atol=1e-7)


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_without_warmup_the_first_rate_is_finite(warmup_steps):
    schedule = config.Schedule(warmup_steps=warmup_steps, warmup_factor=0.5)
    expected = [1, 1] if warmup_steps == 0 else [0.5, 1]
    np.testing.assert_allclose(rates(schedule, 1.0, 10, [0, 1]), expected)


def test_learning_rate_is_linear_in_the_batch_unless_switched_off():
    optimizer = config.Optimizer(learning_rate=0.01, reference_batch_size=16)
    assert scaled_learning_rate(optimizer, 32) == pytest.approx(0.02)
    unscaled = dataclasses.replace(optimizer, reference_batch_size=None)
    assert scaled_learning_rate(unscaled, 32) == 0.01


def make_params(seed=0):
    rng = np.random.default_rng(seed)

    def block(*shape):
        return {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32), "bias": jnp.ones(shape[-1])}

    return {
        "backbone": {
            "conv1": block(3, 2),
            "bn1": block(2),
            "layer1_0": {"conv1": block(2, 2), "bn1": block(2)},
            "layer2_0": {"conv1": block(2, 2), "bn1": block(2)},
            "layer10_0": {"conv1": block(2, 2)},
        },
        "head": {"conv1": block(2, 4), "scales": jnp.ones(3)},
    }


def run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_sgd_equals_pytorch():
    """torch.optim.SGD: g += decay * p; buffer = momentum * buffer + g; p -= rate * buffer."""
    settings = config.Optimizer(momentum=0.9, weight_decay=0.05, clip_norm=None)
    params, gradients = make_params(), [make_params(seed) for seed in range(1, 5)]
    rate = [0.1, 0.2, 0.05, 0.3]
    found, _ = run(make_optimizer(settings, lambda step: jnp.array(rate)[step]), params, gradients)

    def by_hand(p, *gs):
        p, buffer = np.asarray(p, float), 0.0
        for lr, g in zip(rate, gs, strict=True):
            buffer = 0.9 * buffer + (np.asarray(g, float) + 0.05 * p)
            p = p - lr * buffer
        return p

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        jax.tree.map(by_hand, params, *gradients),
    )


def test_clipping_uses_the_norm_of_trained_gradients_before_the_decay():
    settings = config.Optimizer(momentum=0.0, weight_decay=0.1, clip_norm=0.5)
    params, gradient = make_params(), make_params(1)
    gradient["backbone"]["conv1"]["kernel"] *= 1e6  # frozen: must not count
    trained = trained_only(gradient, trainable_mask(params, config.Backbone(frozen_stages=1)))
    norm = float(np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(trained))))
    assert norm > 0.5
    found, _ = run(
        make_optimizer(settings, lambda step: 1.0, config.Backbone(frozen_stages=1)), params, [gradient]
    )
    p, g = params["head"]["conv1"]["kernel"], gradient["head"]["conv1"]["kernel"]
    np.testing.assert_allclose(found["head"]["conv1"]["kernel"], p - (g * 0.5 / norm + 0.1 * p), rtol=1e-5)


def test_adamw_decays_kernels_only():
    settings = config.Optimizer(kind="adamw", weight_decay=0.5)
    params = make_params()
    still = jax.tree.map(jnp.zeros_like, params)
    found, _ = run(make_optimizer(settings, lambda step: 0.1), params, [still])
    before, after = params["head"], found["head"]
    np.testing.assert_allclose(after["conv1"]["kernel"], before["conv1"]["kernel"] * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(after["conv1"]["bias"], before["conv1"]["bias"])
    np.testing.assert_array_equal(after["scales"], before["scales"])


@pytest.mark.parametrize("frozen_stages", [0, 1, 2])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_frozen_stages_do_not_change_and_have_no_optimizer_state(kind, frozen_stages):
    frozen_names = [[], ["bn1", "conv1", "layer1_0"], ["bn1", "conv1", "layer1_0", "layer2_0"]][frozen_stages]
    backbone = config.Backbone(frozen_stages=frozen_stages)
    optimizer = make_optimizer(config.Optimizer(kind=kind), lambda step: 0.1, backbone)
    params = make_params()
    found, state = run(optimizer, params, [make_params(1), make_params(2)])
    kept = [
        name
        for name in params["backbone"]
        if all(
            map(np.array_equal, *map(jax.tree.leaves, (params["backbone"][name], found["backbone"][name])))
        )
    ]
    assert sorted(kept) == sorted(frozen_names)
    assert not np.array_equal(params["head"]["scales"], found["head"]["scales"])

    trained = sum(p.size for p in jax.tree.leaves(trained_only(params, trainable_mask(params, backbone))))
    moments = sum(s.size for s in jax.tree.leaves(state) if s.ndim)
    assert moments == trained * (1 if kind == "sgd" else 2)
