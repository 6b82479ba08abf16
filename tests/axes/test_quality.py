import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.axes.quality import (
    branch_labels,
    class_labels,
    final_scores,
    has_branch,
    largest,
    logit_of_product,
    make_class_logits,
)

OVERLAP, CENTERNESS = jnp.array([0.5, 0.2]), jnp.array([0.9, 0.3])


@pytest.mark.parametrize(
    ("quality", "labels"),
    [
        ("centerness", [0.9, 0.3]),
        ("iou", [0.5, 0.2]),
    ],
)
def test_with_a_branch_the_branch_has_soft_labels_and_the_class_hard_ones(quality, labels):
    assert has_branch(quality)
    np.testing.assert_allclose(branch_labels(quality, OVERLAP, CENTERNESS), labels, rtol=1e-6)
    positive = jnp.array([True, False])
    np.testing.assert_array_equal(class_labels(quality, positive, OVERLAP), [1, 0])


@pytest.mark.parametrize(
    ("quality", "labels"), [("joint", [0.5, 0.2]), ("distribution", [0.5, 0.2]), ("none", [1, 1])]
)
def test_class_labels_without_a_branch(quality, labels):
    assert not has_branch(quality)
    found = class_labels(quality, jnp.array([True, True]), OVERLAP)
    np.testing.assert_allclose(found, labels, rtol=1e-6)


def test_final_scores_are_multiplied_by_the_branch_score():
    np.testing.assert_allclose(final_scores(jnp.array([0.8, 0.8]), jnp.array([0.0, -np.inf])), [0.4, 0.0])


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5]), min_size=4, max_size=9))
def test_largest_equals_sorting(values):
    found = largest(jnp.array(values), 4)
    np.testing.assert_array_equal(found, jnp.array(sorted(values, reverse=True)[:4]))


def test_gradient_of_largest():
    weights = jnp.array([1.0, 10.0, 100.0])
    for values, slopes in (
        ([0.1, 0.4, 0.2, 0.3], [0, 1, 100, 10]),
        ([0.2, 0.2, 0.2, 0.2], [1, 10, 100, 0]),
    ):
        found = jax.grad(lambda x: jnp.sum(largest(x, 3) * weights))(jnp.array(values))
        np.testing.assert_array_equal(found, slopes)


def test_logit_of_a_product():
    a, b = jnp.meshgrid(jnp.linspace(-5, 5, 11), jnp.linspace(-5, 5, 11))
    product = jax.nn.sigmoid(a) * jax.nn.sigmoid(b)
    np.testing.assert_allclose(jax.nn.sigmoid(logit_of_product(a, b)), product, rtol=1e-5)
    slope = jax.grad(lambda a, b: logit_of_product(a, b), argnums=(0, 1))
    for extreme in ((-1e4, -1e4), (1e4, 1e4), (-1e4, 1e4)):
        assert np.isfinite(logit_of_product(*extreme))
        assert np.isfinite(slope(*extreme)).all()


class Head(nn.Module):
    quality: str

    @nn.compact
    def __call__(self, class_map, box_map):
        return make_class_logits(self.quality, 5, jnp.float32)(class_map, box_map)


def test_class_scores_are_multiplied_by_the_quality_read_from_distributions():
    """There are two anchors; the score of each is multiplied by the quality read from its own four sides."""
    rng = np.random.default_rng(0)
    class_map, box_map = (rng.normal(size=(1, 2, 3, n)).astype(np.float32) for n in (2 * 3, 2 * 4 * 5))
    variables = Head("distribution").init(jax.random.key(0), class_map, box_map)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), variables)
    found = Head("distribution").apply(variables, class_map, box_map)
    first, second = (variables["params"][f"reg_conf_{i}"] for i in (0, 2))
    for place in np.ndindex(1, 2, 3):
        for anchor in range(2):
            sides = box_map[place].reshape(2, 4, 5)[anchor]
            probabilities = np.exp(sides) / np.sum(np.exp(sides), axis=-1, keepdims=True)
            best = -np.sort(-probabilities, axis=-1)[:, :4]
            seen = np.concatenate([best, best.mean(-1, keepdims=True)], axis=-1).reshape(-1)
            hidden = np.maximum(seen @ first["kernel"][0, 0] + first["bias"], 0)
            quality = jax.nn.sigmoid(hidden @ second["kernel"][0, 0] + second["bias"])
            scores = jax.nn.sigmoid(class_map[place].reshape(2, 3)[anchor])
            of_anchor = jax.nn.sigmoid(found[place].reshape(2, 3)[anchor])
            np.testing.assert_allclose(of_anchor, scores * quality, rtol=1e-4)
    assert Head("joint").init(jax.random.key(0), class_map, box_map) == {}
    np.testing.assert_array_equal(Head("joint").apply({}, class_map, box_map), class_map)
