import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gfl_jax.boxes import iou
from gfl_jax.inference.nms import nms

COUNT = 16  # boxes of each example: one shape, one compilation
suppress = jax.jit(nms, static_argnames=("iou_threshold", "max_kept"))


def greedy(boxes, scores, labels, mask, iou_threshold):
    """Greedy suppression in its plain form: best first, and only kept boxes suppress."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):  # stable: the first of equals stays first
        if mask[i] and all(
            labels[i] != labels[k] or overlap(boxes[i], boxes[k]) <= iou_threshold for k in kept
        ):
            kept.append(i)
    return kept


def overlap(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    common = np.prod(sides)
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def found(boxes, scores, labels, mask, iou_threshold=0.5, max_kept=COUNT):
    indices, present = suppress(
        jnp.asarray(boxes, jnp.float32), scores, labels, mask, iou_threshold=iou_threshold, max_kept=max_kept
    )
    assert indices.shape == present.shape == (max_kept,)
    number = int(np.sum(present))
    assert np.all(present[:number])  # unused entries come last
    return list(np.asarray(indices)[:number])


def boxes_of(*shape):
    integers = hnp.arrays(np.int64, (*shape, 4), elements=st.integers(-9, 9))
    return integers.map(lambda n: np.concatenate([n[..., :2], n[..., :2] + np.abs(n[..., 2:]) + 1], axis=-1))


few_scores = hnp.arrays(np.int64, COUNT, elements=st.integers(0, 5)).map(lambda n: (n / 8).astype(np.float32))
few_labels = hnp.arrays(np.int32, COUNT, elements=st.integers(0, 2))


@given(boxes_of(COUNT), few_scores, few_labels, hnp.arrays(bool, COUNT), st.sampled_from([0.3, 0.5]))
def test_nms_equals_greedy_suppression(boxes, scores, labels, mask, iou_threshold):
    """This includes negative coordinates, equal scores, chains, several classes, and masked boxes."""
    kept = found(boxes, scores, labels, mask, iou_threshold)
    assert kept == greedy(boxes, scores, labels, mask, iou_threshold)
    assert found(boxes, scores, labels, mask, iou_threshold, max_kept=3) == kept[:3]


@functools.partial(jax.jit, static_argnames=("iou_threshold", "max_kept"))
def one_by_one(boxes, scores, labels, mask, iou_threshold, max_kept):
    """NMS of several images that keeps one box per round: the shortest form with fixed shapes."""

    def of_image(boxes, scores, labels, mask):
        def keep_best(alive, _):
            best = jnp.argmax(jnp.where(alive, scores, -jnp.inf))
            suppressed = (iou(boxes[best], boxes) > iou_threshold) & (labels == labels[best])
            return (alive & ~suppressed).at[best].set(False), (best, alive[best])

        return jax.lax.scan(keep_best, mask, length=max_kept)[1]

    return jax.vmap(of_image)(boxes, scores, labels, mask)


@functools.partial(jax.jit, static_argnames=("iou_threshold", "max_kept", "block_size"))
def in_blocks(*images, **settings):
    return jax.vmap(functools.partial(nms, **settings))(*images)


def assert_equal(images, iou_threshold, max_kept, **settings):
    expected = one_by_one(*images, iou_threshold=iou_threshold, max_kept=max_kept)
    found = in_blocks(*images, iou_threshold=iou_threshold, max_kept=max_kept, **settings)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    return np.sum(expected[1], axis=1)


@given(
    boxes_of(3, COUNT),
    hnp.arrays(np.float32, (3, COUNT), elements=st.sampled_from([-1.0, -0.0, 0.0, 0.5, np.inf])),
    hnp.arrays(np.int32, (3, COUNT), elements=st.integers(0, 1)),
    hnp.arrays(bool, (3, COUNT)),
    st.sampled_from([(1, 4), (3, 1), (5, 5), (COUNT, 7), (COUNT + 4, 100)]),
)
def test_blocks_give_the_same_result_as_one_box_per_round(boxes, scores, labels, mask, sizes):
    """All entries are equal, unused ones too. One of the three images is done before the others."""
    max_kept, block_size = sizes
    images = boxes.astype(np.float32), scores, labels, mask
    assert_equal(images, iou_threshold=0.4, max_kept=max_kept, block_size=block_size)


def test_blocks_of_the_usual_size():
    """Image 1 has clusters in several blocks, image 2 a chain longer than a block, image 3 no candidates."""
    rng, count = np.random.default_rng(0), 700
    corners = rng.integers(0, 6, (count, 2)) * 50 + rng.normal(0, 4, (count, 2))
    clusters = np.concatenate([corners, corners + 30], axis=1)
    chain = np.array([0, 0, 10, 10]) + np.array([2.5, 0, 2.5, 0]) * np.arange(count)[:, None]
    boxes = np.stack([clusters, chain, clusters]).astype(np.float32)
    scores = np.stack([rng.integers(0, 99, count), np.arange(count)[::-1], np.ones(count)]).astype(np.float32)
    labels = np.stack([rng.integers(0, 2, count), np.zeros(count), np.zeros(count)]).astype(np.int32)
    mask = np.stack([rng.random(count) < 0.9, np.ones(count), np.zeros(count)]).astype(bool)
    numbers = assert_equal((boxes, scores, labels, mask), iou_threshold=0.5, max_kept=count)
    assert list(numbers[1:]) == [count // 2, 0]
    assert_equal((boxes, scores, labels, mask), iou_threshold=0.5, max_kept=40)


def test_many_candidates_need_little_memory():
    """40,000 candidates, as in multi-scale testing, are compared in blocks, not as 1.6 billion pairs."""
    shapes = [((40_000, 4), float), ((40_000,), float), ((40_000,), int), ((40_000,), bool)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.zeros((), kind).dtype) for shape, kind in shapes]
    compiled = suppress.lower(*arguments, iou_threshold=0.5, max_kept=500).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8e6


def test_a_suppressed_box_does_not_suppress():
    """Each box has an IoU of 0.6 with the next: the first suppresses the second, and the third stays."""
    boxes = np.array([[0, 0, 10, 10], [2.5, 0, 12.5, 10], [5, 0, 15, 10], [7.5, 0, 17.5, 10]])
    scores, labels, mask = np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int), np.ones(4, bool)
    assert found(boxes, scores, labels, mask, max_kept=4) == [0, 2]
    assert found(boxes - 1000, scores, labels, mask, max_kept=4) == [0, 2]


def test_boxes_with_an_iou_at_the_threshold_stay():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 4]])  # IoU 0.5, 0.5 and 1
    arguments = boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, int), np.ones(3, bool)
    assert found(*arguments, iou_threshold=0.5, max_kept=3) == [0, 1]
    assert found(*arguments, iou_threshold=0.49, max_kept=3) == [0]


@pytest.mark.parametrize("mask", [[False, False], [False, True]])
def test_masked_boxes_are_not_kept_and_do_not_suppress(mask):
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4]])
    kept = found(boxes, np.array([0.9, 0.8]), np.zeros(2, int), np.array(mask), max_kept=2)
    assert kept == [i for i in range(2) if mask[i]]
