"""The moving average of the parameters: its updates, checkpoints and uses."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import CONFIG, DETECTOR, change, make_batch, make_plain_step, read_state, write_dataset

from gfl_jax import config
from gfl_jax.configuration.overrides import override
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import make_mesh, put_batch, replicated
from gfl_jax.training import loop
from gfl_jax.training.checkpoint import Checkpoints, load_variables
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import create_state, state_shapes, update_ema
from gfl_jax.training.step import make_train_step

FROZEN = change(DETECTOR, backbone=change(DETECTOR.backbone, frozen_stages=1))
AVERAGED = change(CONFIG, detector=FROZEN, optimizer=config.Optimizer(ema_decay=0.3))


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_average_equals_one_computed_by_hand():
    """decay_t is 2 / 11 after the first step, then 3 / 12, 4 / 13, then 0.3."""
    rng = np.random.default_rng(0)
    path = rng.normal(size=(8, 5)).astype(np.float32)
    ema = by_hand = path[0]
    for step in range(1, 8):
        decay = min(0.3, (1 + step) / (10 + step))
        by_hand = decay * by_hand + (1 - decay) * path[step]
        ema = update_ema(ema, path[step], jnp.int32(step), 0.3)
        assert ema.dtype == np.float32
        np.testing.assert_allclose(ema, by_hand, rtol=1e-5)
    same(update_ema(path[0], path[0], jnp.int32(7), 0.3), path[0])


@pytest.fixture(scope="module")
def training():
    """A compiled step with a moving average on one device, its state shapes, and a first state."""
    mesh = make_mesh(devices=jax.devices()[:1])
    model = build_detector(FROZEN)
    optimizer = make_optimizer(AVERAGED.optimizer, lambda step: 0.05, FROZEN.backbone)
    step = make_train_step(model, optimizer, lambda step: 0.05, AVERAGED, mesh)
    shapes = state_shapes(model, optimizer, ema=True)
    program = step.lower(shapes, make_batch(0)).compile()

    def run(state, seeds):
        for seed in seeds:
            state, metrics = program(
                jax.device_put(state, replicated(mesh)), put_batch(make_batch(seed), mesh)
            )
        return jax.device_get(state), metrics

    first = jax.device_get(create_state(model, optimizer, seed=0, ema=True))
    return SimpleNamespace(run=run, shapes=shapes, first=first, sharding=replicated(mesh))


def test_steps_update_the_average(training):
    """It starts as the parameters. The average of frozen parameters is bit-identical to them."""
    same(training.first.ema, training.first.params)
    one, _ = training.run(training.first, [1])
    expected = jax.tree.map(lambda a, b: (2 * a + 9 * b) / 11, training.first.params, one.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one.ema, expected)
    assert not np.array_equal(one.ema["head"]["box"]["kernel"], one.params["head"]["box"]["kernel"])
    same(one.ema["backbone"]["conv1"], training.first.params["backbone"]["conv1"])
    same(one.evaluated, {"params": one.ema, "batch_stats": one.batch_stats})
    same(one.variables, {"params": one.params, "batch_stats": one.batch_stats})


def test_a_skipped_step_does_not_change_the_average(training):
    state, _ = training.run(training.first, [1])
    state.params["head"]["class_logits"]["bias"] = np.full(3, np.nan, np.float32)
    after, metrics = training.run(state, [2])
    assert not metrics["finite"]
    same(after, state)


def test_a_restored_run_is_bit_identical(training, tmp_path):
    whole, _ = training.run(training.first, [1, 2, 3])
    middle, _ = training.run(training.first, [1])
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.save(jax.device_put(middle, training.sharding))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, 3)
    restored = checkpoints.restore_latest(training.shapes, training.sharding)
    checkpoints.close()
    same(jax.device_get(restored), middle)
    same(training.run(restored, [2, 3])[0], whole)


def test_the_loop_evaluates_and_saves_the_average(tmp_path, monkeypatch):
    """The best and the last checkpoint load as the average. Another run can start from it."""
    evaluated = []

    def remember(detect, variables, *rest):
        evaluated.append(jax.device_get(variables))
        return []

    metrics = SimpleNamespace(AP=0.5, scalars=lambda: {"AP": 0.5, "AP50": 0.7, "AP75": 0.3})
    monkeypatch.setattr(loop, "detect_source", remember)
    monkeypatch.setattr(loop, "measure_results", lambda *_: metrics)
    monkeypatch.setattr(loop, "make_train_step", make_plain_step)
    dataset = write_dataset(tmp_path / "data")
    experiment = override(change(AVERAGED, detector=DETECTOR, dataset=dataset), {"schedule.steps": 2})
    loop.train(experiment, tmp_path / "run")
    last, average = read_state(tmp_path / "run", 2), load_variables(tmp_path / "run")
    for found in (evaluated[-1], load_variables(tmp_path / "run/checkpoints"), last["variables"]):
        same(found, average)
    assert_ahead(last["training"]["params"], average["params"], by=1)

    loop.train(change(experiment, init_from=str(tmp_path / "run")), tmp_path / "started")
    started = read_state(tmp_path / "started", 2)
    assert_ahead(started["training"]["params"], average["params"], by=2)
    assert_ahead(started["variables"]["params"], average["params"], by=1)


def assert_ahead(params, others, by):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a - b, by, rtol=1e-5), params, others)
