"""The loss of localization distillation, compared with values by hand and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.losses.distillation import localization_distillation_loss

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(6, 5)) * 4, RNG.normal(size=(6, 5)) * 4


def by_hand(student, teacher, temperature):
    p, q = (np.exp(x / temperature) for x in (teacher, student))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return temperature**2 * np.sum(p * np.log(p / q), axis=-1) / student.shape[-1]


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_the_loss_and_its_gradient(temperature):
    with jax.enable_x64(True):
        loss = lambda x: localization_distillation_loss(x, jnp.asarray(TEACHER), temperature)  # noqa: E731
        found, slopes = loss(jnp.asarray(STUDENT)), jax.grad(lambda x: jnp.sum(loss(x)))(jnp.asarray(STUDENT))
    np.testing.assert_allclose(found, by_hand(STUDENT, TEACHER, temperature), rtol=1e-10)
    for k in range(5):
        moved = np.eye(5)[k] * 1e-6
        up, down = (by_hand(STUDENT + sign * moved, TEACHER, temperature) for sign in (1, -1))
        np.testing.assert_allclose(slopes[:, k], (up - down) / 2e-6, rtol=1e-4, atol=1e-7)


def test_the_loss_is_zero_if_student_and_teacher_agree():
    # A constant does not change a softmax.
    found = localization_distillation_loss(jnp.asarray(TEACHER) + 3, jnp.asarray(TEACHER), 10.0)
    np.testing.assert_allclose(found, 0, atol=1e-5)


def test_two_bins_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): (3/4 log 3/2 + 1/4 log 1/2) / 2
    found = localization_distillation_loss(jnp.zeros(2), jnp.array([np.log(3.0), 0.0]), 1.0)
    np.testing.assert_allclose(found, (0.75 * np.log(1.5) + 0.25 * np.log(0.5)) / 2, rtol=1e-6)


def test_extreme_logits_are_finite():
    logits = jnp.array([1e6, 0.0, -1e6])
    value, slope = jax.value_and_grad(localization_distillation_loss)(logits, -logits, 10.0)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
