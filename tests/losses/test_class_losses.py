import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.losses.focal import binary_cross_entropy, focal_loss, quality_focal_loss

logits_strategy = hnp.arrays(np.float32, 16, elements=st.floats(-30, 30, width=32))
shares = hnp.arrays(np.float32, 16, elements=st.floats(0, 1, width=32))
hard_labels = hnp.arrays(np.float32, 16, elements=st.sampled_from([0.0, 1.0]))

cross_entropy = jax.jit(binary_cross_entropy)
quality = jax.jit(quality_focal_loss, static_argnames="beta")
focal = jax.jit(focal_loss, static_argnames="alpha")
gradient = jax.jit(jax.grad(lambda x, y, beta: jnp.sum(quality_focal_loss(x, y, beta))), static_argnums=2)


def exact_cross_entropy(logits, targets):
    """Cross-entropy in float64, from the probabilities; accurate while no probability is rounded to 1."""
    x = logits.astype(np.float64)
    return targets * np.log1p(np.exp(-x)) + (1 - targets) * np.log1p(np.exp(x))


@given(logits_strategy, shares)
def test_cross_entropy_of_the_sigmoid(logits, targets):
    expected = exact_cross_entropy(logits, targets)
    np.testing.assert_allclose(cross_entropy(logits, targets), expected, rtol=1e-5, atol=1e-5)


@given(logits_strategy, shares)
def test_qfl_with_beta_0_is_cross_entropy(logits, targets):
    np.testing.assert_array_equal(quality(logits, targets, beta=0.0), cross_entropy(logits, targets))


@given(logits_strategy, hard_labels)
def test_qfl_at_a_hard_label_is_focal_loss_without_alpha(logits, labels):
    """The loss is -(1 - p)^2 log(p), where p is the predicted probability of the label."""
    truth = np.where(labels == 1, logits, -logits).astype(np.float64)
    p = 1 / (1 + np.exp(-truth))
    expected = (1 - p) ** 2 * np.log1p(np.exp(-truth))
    np.testing.assert_allclose(quality(logits, labels, beta=2.0), expected, rtol=1e-4, atol=1e-5)
    twice = 2 * focal(logits, labels, alpha=0.5)
    np.testing.assert_allclose(twice, quality(logits, labels, beta=2.0), rtol=1e-6, atol=1e-30)


def test_focal_loss_weights_ones_by_alpha_and_zeros_by_1_minus_alpha():
    logits, labels = jnp.array([0.3, 0.3]), jnp.array([1.0, 0.0])
    found = focal_loss(logits, labels, alpha=0.25)
    np.testing.assert_allclose(found, quality_focal_loss(logits, labels) * jnp.array([0.25, 0.75]), rtol=1e-6)


@given(shares)
def test_qfl_is_smallest_if_the_score_equals_the_quality(targets):
    targets = np.clip(targets, 0.01, 0.99)
    best = np.log(targets / (1 - targets))
    assert np.all(quality(best, targets) < 1e-12)
    assert np.all(quality(best + 0.5, targets) > 5e-7)
    assert np.all(quality(best - 0.5, targets) > 5e-7)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_gradient_is_correct_and_finite_everywhere(beta):
    """This includes scores that equal the quality, and scores that are rounded to 0 or 1."""
    logits = jnp.array([0.0, 0.0, -200.0, 200.0, -200.0, 200.0, 1.5, -2.0])
    targets = jnp.array([0.5, 0.2, 0.0, 1.0, 1.0, 0.0, 0.9, 0.0])
    assert np.all(np.isfinite(quality(logits, targets, beta=beta)))
    found = gradient(logits, targets, beta)
    assert np.all(np.isfinite(found))
    with jax.enable_x64(True):
        smooth = [1, 6, 7]  # away from the kink of |y - sigma|
        x, y, step = np.float64(logits)[smooth], np.float64(targets)[smooth], 1e-6
        ahead, behind = (quality_focal_loss(x + s, y, beta) for s in (step, -step))
        np.testing.assert_allclose(found[jnp.array(smooth)], (ahead - behind) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("beta", [1e-300, 0.01, 0.5, 0.99])
@given(hnp.arrays(np.float32, 16, elements=st.floats(-200, 200, width=32)), shares, hard_labels)
def test_loss_and_gradient_of_a_small_beta_are_finite(beta, logits, targets, labels):
    """Near a distance of 0 the slope of the power is unbounded, but the loss has its minimum there."""
    scores = np.asarray(jax.nn.sigmoid(logits))
    for qualities in (targets, labels, scores):
        assert np.all(np.isfinite(quality(logits, qualities, beta=beta)))
        assert np.all(np.isfinite(gradient(logits, qualities, beta)))
    # Here the distance is 0: the score is one half, or it is rounded to its label.
    logits, qualities = np.array([0, 40, -120], np.float32), np.array([0.5, 1, 0], np.float32)
    np.testing.assert_array_equal(quality(logits, qualities, beta=beta), 0)
    np.testing.assert_array_equal(gradient(logits, qualities, beta), 0)
