import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.models.head import DenseHead
from gfl_jax.models.network import build_detector


def random_images(height=64, width=96):
    return np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(small_detector, random_variables):
    return random_variables(build_detector(small_detector), random_images())


def test_outputs_of_each_level(small_detector, variables):
    outputs = jax.eval_shape(build_detector(small_detector).apply, variables, random_images())
    grids = [(8, 12), (4, 6), (2, 3)]
    assert [x.shape for x in outputs.class_logits] == [(2, *grid, 3) for grid in grids]
    assert [x.shape for x in outputs.box] == [(2, *grid, 4 * 5) for grid in grids]


def test_levels_above_the_backbone_round_their_size_up():
    """Stride-2 convolutions round up: 25 columns become 13, and 13 become 7."""
    network = build_detector(config.Detector())
    shape = jax.ShapeDtypeStruct((1, 96, 800, 3), jnp.float32)
    outputs, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), shape)
    grids = [(12, 100), (6, 50), (3, 25), (2, 13), (1, 7)]
    assert [x.shape[1:3] for x in outputs.class_logits] == grids


def test_class_scores_start_at_one_percent(small_detector):
    levels = [jnp.zeros((1, 1, 1, 8))] * 3
    head = jax.jit(DenseHead(small_detector).init)(jax.random.key(0), levels)["params"]
    np.testing.assert_allclose(jax.nn.sigmoid(head["class_logits"]["bias"]), 0.01, rtol=1e-5)
    np.testing.assert_allclose(head["class_logits"]["bias"][0], -math.log(99), rtol=1e-6)
    np.testing.assert_array_equal(head["box"]["bias"], 0)
    for name in ("class_tower_0", "box_tower_0", "class_logits", "box"):
        assert np.std(head[name]["kernel"]) == pytest.approx(0.01, rel=0.15)
    assert [float(head[f"scale_{level}"]) for level in range(3)] == [1, 1, 1]


def test_bfloat16_arithmetic_gives_close_float32_outputs(small_detector, variables):
    exact, found = (
        jax.jit(build_detector(small_detector, precision).apply)(variables, random_images())
        for precision in ("float32", "bfloat16")
    )
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(found), strict=True):
        assert b.dtype == jnp.float32
        assert 0 < np.max(np.abs(a - b)) < 0.05 * np.max(np.abs(a))


def test_parameters_are_float32_in_bfloat16_arithmetic(small_detector):
    init = build_detector(small_detector, "bfloat16").init
    variables = jax.eval_shape(init, jax.random.key(0), random_images())
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_only_training_changes_the_running_statistics(small_detector, variables):
    apply = jax.jit(build_detector(small_detector).apply, static_argnames=("train", "mutable"))
    for train in (False, True):
        _, updates = apply(variables, random_images(), train=train, mutable=("batch_stats",))
        before, after = (jax.tree.leaves(x["batch_stats"]) for x in (variables, updates))
        changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(changed) if train else not any(changed)
