import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.axes.quality import branch_labels, class_labels, final_scores, has_branch

OVERLAP, CENTERNESS = jnp.array([0.5, 0.2]), jnp.array([0.9, 0.3])


@pytest.mark.parametrize(
    ("quality", "labels"),
    [
        ("centerness", [0.9, 0.3]),
        ("iou", [0.5, 0.2]),
    ],
)
def test_a_branch_learns_its_labels_and_leaves_hard_ones_to_the_class(quality, labels):
    assert has_branch(quality)
    np.testing.assert_allclose(branch_labels(quality, OVERLAP, CENTERNESS), labels, rtol=1e-6)
    positive = jnp.array([True, False])
    np.testing.assert_array_equal(class_labels(quality, positive, OVERLAP), [1, 0])


@pytest.mark.parametrize(("quality", "labels"), [("joint", [0.5, 0.2]), ("none", [1, 1])])
def test_without_a_branch_the_class_score_may_carry_the_quality(quality, labels):
    assert not has_branch(quality)
    found = class_labels(quality, jnp.array([True, True]), OVERLAP)
    np.testing.assert_allclose(found, labels, rtol=1e-6)


def test_the_score_of_a_branch_is_multiplied_in():
    np.testing.assert_allclose(final_scores(jnp.array([0.8, 0.8]), jnp.array([0.0, -np.inf])), [0.4, 0.0])
