import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.axes.box_representation import integral
from gfl_jax.losses.distribution import distribution_focal_loss

BINS = 9
logits_strategy = hnp.arrays(np.float64, BINS, elements=st.floats(-10, 10))
target_strategy = st.floats(0, BINS - 1.1)

loss = jax.jit(distribution_focal_loss)
gradient = jax.jit(jax.grad(distribution_focal_loss))
expectation = jax.jit(lambda logits: integral(logits, jnp.arange(BINS)))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@given(logits_strategy, target_strategy)
def test_dfl_is_the_cross_entropy_with_the_two_bins_around_the_target(logits, target):
    probabilities = np.exp(logits) / np.sum(np.exp(logits))
    left = int(np.floor(target))
    expected = -(left + 1 - target) * np.log(probabilities[left])
    expected -= (target - left) * np.log(probabilities[left + 1])
    np.testing.assert_allclose(loss(logits, target), expected, rtol=1e-9)


@given(logits_strategy, target_strategy)
def test_gradient_of_dfl(logits, target):
    """The gradient is compared with central differences, bin by bin."""
    steps = 1e-5 * np.eye(BINS)
    differences = [(loss(logits + step, target) - loss(logits - step, target)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient(logits, target), differences, atol=1e-8)


@given(target_strategy)
def test_dfl_is_smallest_if_the_integral_is_the_target(target):
    """The best distribution has linear weights on the two bins around the target. Its gradient is zero."""
    weights = np.maximum(1 - np.abs(np.arange(BINS) - target), 1e-12)
    best = np.log(weights / weights.sum())
    np.testing.assert_allclose(expectation(best), target, atol=1e-9)
    np.testing.assert_allclose(gradient(best, target), 0, atol=1e-10)
    for shift in (0.1 * np.arange(BINS), -0.1 * np.arange(BINS), 0.3 * np.cos(np.arange(BINS))):
        assert loss(best + shift, target) >= loss(best, target) - 1e-9


@given(logits_strategy)
def test_the_integral_is_the_mean_of_the_distribution(logits):
    probabilities = np.exp(logits) / np.sum(np.exp(logits))
    np.testing.assert_allclose(expectation(logits), np.sum(probabilities * np.arange(BINS)), rtol=1e-9)
    np.testing.assert_allclose(expectation(logits + 700), expectation(logits), rtol=1e-9)


def test_dfl_and_integral_work_on_any_leading_shape():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 3, 4, BINS)), rng.uniform(0, BINS - 1, (2, 3, 4))
    for index in np.ndindex(2, 3, 4):
        np.testing.assert_allclose(loss(logits, targets)[index], loss(logits[index], targets[index]))
        np.testing.assert_allclose(expectation(logits)[index], expectation(logits[index]))


def test_certain_distributions_have_finite_losses():
    logits = jnp.array([1000.0] + [-1000.0] * (BINS - 1))
    assert float(loss(logits, 0.0)) == 0
    assert float(loss(logits, 3.5)) == 2000
    assert np.all(np.isfinite(gradient(logits, 3.5)))
