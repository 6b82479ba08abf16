"""QFL with every beta, L2, DFL on spaced bins and the Gaussian loss, compared with numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.axes.box_representation import integral
from gfl_jax.losses.distribution import distribution_focal_loss, gaussian_negative_log_likelihood
from gfl_jax.losses.focal import focal_loss, l2_loss, quality_focal_loss

BETAS = (0.0, 0.5, 1.0, 2.0, 2.5, 4.0)
BINS = 9
logits_strategy = hnp.arrays(np.float64, 16, elements=st.floats(-15, 15))
labels_strategy = hnp.arrays(np.float64, 16, elements=st.floats(0, 1))

quality = jax.jit(quality_focal_loss, static_argnums=2)
quality_gradient = jax.jit(jax.grad(lambda x, y, b: jnp.sum(quality_focal_loss(x, y, b))), static_argnums=2)
focal = jax.jit(focal_loss, static_argnums=(2, 3))
l2 = jax.jit(l2_loss)
l2_gradient = jax.jit(jax.grad(lambda x, y: jnp.sum(l2_loss(x, y))))
spaced = jax.jit(distribution_focal_loss)
spaced_gradient = jax.jit(jax.grad(distribution_focal_loss))
mean_of = jax.jit(integral)
likelihood = jax.jit(gaussian_negative_log_likelihood)
likelihood_gradient = jax.jit(jax.grad(gaussian_negative_log_likelihood, argnums=(0, 1)))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("beta", BETAS)
@given(logits_strategy, labels_strategy)
def test_qfl_is_the_formula_of_the_paper(beta, logits, labels):
    """GFL eq. 5 is -|y - s|^beta ((1 - y) log(1 - s) + y log(s)); with beta 0 it is cross-entropy."""
    score = sigmoid(logits)
    entropy = -(1 - labels) * np.log(sigmoid(-logits)) - labels * np.log(score)
    expected = entropy if beta == 0 else np.abs(labels - score) ** beta * entropy
    np.testing.assert_allclose(quality(logits, labels, beta), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma", BETAS)
@given(logits_strategy, hnp.arrays(bool, 16))
def test_qfl_with_hard_labels_is_focal_loss_without_alpha(gamma, logits, truth):
    """The loss is -(1 - p)^gamma log(p), where p is the probability of the label (Lin et al. 2017, eq. 4)."""
    p = sigmoid(np.where(truth, logits, -logits))
    expected = -((1 - p) ** gamma) * np.log(p)
    labels = truth.astype(float)
    np.testing.assert_allclose(quality(logits, labels, gamma), expected, rtol=1e-8, atol=1e-12)
    alpha = np.where(truth, 0.25, 0.75)
    np.testing.assert_allclose(focal(logits, labels, 0.25, gamma), alpha * expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loss_and_gradient_are_finite_if_the_score_is_the_label(beta, dtype):
    """The score equals the label exactly at a logit of 0, and within rounding at other logits.

    There the gradient is 0, except with beta 1: then the loss has a kink, with slopes on both sides.
    """
    logits = np.array([0, -3, -0.1, 0.7, 5, 40, -40], dtype)
    labels = np.asarray(jax.nn.sigmoid(logits))
    found, gradient = quality(logits, labels, beta), quality_gradient(logits, labels, beta)
    assert found.dtype == gradient.dtype == dtype
    assert np.all(np.isfinite(found))
    assert np.all(np.isfinite(gradient))
    assert abs(gradient[0]) <= (0.25 * np.log(2) * (1 + 1e-6) if beta == 1 else 0)
    if beta > 0:
        assert found[0] == 0
        np.testing.assert_allclose(found, 0, atol=1e-6)


@given(logits_strategy, labels_strategy)
def test_l2_and_its_gradient(logits, labels):
    score = sigmoid(logits)
    np.testing.assert_allclose(l2(logits, labels), (score - labels) ** 2, rtol=1e-8, atol=1e-15)
    slope = 2 * (score - labels) * score * (1 - score)
    np.testing.assert_allclose(l2_gradient(logits, labels), slope, rtol=1e-8, atol=1e-15)


spacings = st.sampled_from([0.5, 1.0, 2.0, 4.0])


@given(spacings, st.floats(0, BINS - 1.1), hnp.arrays(np.float64, BINS, elements=st.floats(-5, 5)))
def test_spaced_dfl_is_the_cross_entropy_with_the_two_bins_around_the_target(spacing, position, logits):
    """GFL eq. 6 is -((y_right - y) log S_left + (y - y_left) log S_right) / (y_right - y_left)."""
    target, left = position * spacing, int(position)
    log_s = logits - np.log(np.sum(np.exp(logits)))
    y_left, y_right = left * spacing, (left + 1) * spacing
    expected = -((y_right - target) * log_s[left] + (target - y_left) * log_s[left + 1]) / spacing
    np.testing.assert_allclose(spaced(logits, target, spacing), expected, rtol=1e-9)


@given(spacings, st.floats(0.01, BINS - 1.1))
def test_spaced_dfl_is_smallest_if_the_integral_is_the_target(spacing, position):
    """With linear weights on the two bins around the target the gradient is zero. All else is worse."""
    target, left = position * spacing, int(position)
    weights = np.full(BINS, 1e-14)
    weights[left : left + 2] += [left + 1 - position, position - left]
    best = np.log(weights / weights.sum())
    np.testing.assert_allclose(mean_of(best, np.arange(BINS) * spacing), target, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(spaced_gradient(best, target, spacing), 0, atol=1e-12)
    least = spaced(best, target, spacing)
    for bin_ in range(BINS):
        assert spaced(best + 0.3 * np.eye(BINS)[bin_], target, spacing) >= least - 1e-12


@given(st.floats(-5, 20), st.floats(-6, 6), st.floats(0, 20))
def test_the_gaussian_loss_is_minus_the_log_density(mean, log_variance, target):
    deviation = np.exp(log_variance / 2)
    density = np.exp(-(((target - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
    found = likelihood(mean, log_variance, target)
    if density > 1e-300:
        np.testing.assert_allclose(found, -np.log(density) - np.log(2 * np.pi) / 2, rtol=1e-8, atol=1e-8)


@given(st.floats(0, 8), st.floats(-2, 3), st.floats(0, 8))
def test_gradient_of_the_gaussian_loss(mean, log_variance, target):
    """The gradients of mean and log variance are compared with central differences."""
    found, step = likelihood_gradient(mean, log_variance, target), 1e-5
    by_mean = likelihood(mean + step, log_variance, target) - likelihood(mean - step, log_variance, target)
    by_log = likelihood(mean, log_variance + step, target) - likelihood(mean, log_variance - step, target)
    np.testing.assert_allclose(found, [by_mean / (2 * step), by_log / (2 * step)], rtol=1e-6, atol=1e-7)


def test_the_gaussian_loss_is_smallest_if_the_variance_is_the_squared_error():
    gradient = likelihood_gradient(3.0, np.log(4.0), 5.0)
    np.testing.assert_allclose(gradient, [-0.5, 0], atol=1e-12)
    np.testing.assert_allclose(likelihood_gradient(5.0, 1.0, 5.0), [0, 0.5], atol=1e-12)
