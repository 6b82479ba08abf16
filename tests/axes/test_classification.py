"""The varifocal loss, which the classification axis combines from other losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.axes.classification import ClassificationLoss, class_loss

VARIFOCAL = ClassificationLoss("varifocal", alpha=0.75, gamma=2.0)


def varifocal_by_hand(logits, labels, alpha, gamma):
    """The varifocal loss as Zhang et al. 2021 write it (eq. 2), on probabilities."""
    p = 1 / (1 + np.exp(-logits))
    positive = -labels * (labels * np.log(p) + (1 - labels) * np.log(1 - p))
    return np.sum(np.where(labels > 0, positive, -alpha * p**gamma * np.log(1 - p)), axis=-1)


def test_varifocal_loss_by_hand():
    # p = 1/2: -0.6 (0.6 log 1/2 + 0.4 log 1/2) + 0.75 / 4 log 2 = (0.6 + 0.1875) log 2
    found = class_loss(jnp.zeros((1, 2)), jnp.array([[0.6, 0.0]]), VARIFOCAL)
    np.testing.assert_allclose(found, 0.7875 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.5, 1.5), (1.0, 0.0)])
def test_varifocal_loss_and_its_gradient(alpha, gamma):
    rng = np.random.default_rng(0)
    logits, labels = (
        rng.normal(size=(50, 3)) * 3,
        rng.uniform(size=(50, 3)) * (rng.uniform(size=(50, 3)) < 0.4),
    )
    loss = ClassificationLoss("varifocal", alpha=alpha, gamma=gamma)
    with jax.enable_x64(True):
        found = class_loss(jnp.asarray(logits), jnp.asarray(labels), loss)
        slopes = jax.grad(lambda x: jnp.sum(class_loss(x, jnp.asarray(labels), loss)))(jnp.asarray(logits))
    np.testing.assert_allclose(found, varifocal_by_hand(logits, labels, alpha, gamma), rtol=1e-10)
    step = 1e-6
    for k in range(3):
        moved = np.eye(3)[k] * step
        up, down = (varifocal_by_hand(logits + sign * moved, labels, alpha, gamma) for sign in (1, -1))
        np.testing.assert_allclose(slopes[:, k], (up - down) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_scores_have_finite_losses_and_gradients(logit):
    labels = jnp.array([[0.5, 0.0]])
    value, slope = jax.value_and_grad(lambda x: jnp.sum(class_loss(x, labels, VARIFOCAL)))(
        jnp.full((1, 2), logit)
    )
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
