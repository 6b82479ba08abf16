import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.axes.assigner import assign_targets
from gfl_jax.detection_loss import Normalizers, detection_losses, loss_normalizers
from gfl_jax.structures import Batch, HeadOutputs
from gfl_jax.targets.locations import make_locations

GRIDS = ((8, 12), (4, 6), (2, 3))  # of a canvas of 64 x 96
REG_MAX = 4


def random_outputs(grids, seed=0, batch=2):
    rng = np.random.default_rng(seed)

    def maps(channels):
        return tuple(rng.normal(-1, 2, (batch, *grid, channels)).astype(np.float32) for grid in grids)

    return HeadOutputs(maps(3), maps(4 * (REG_MAX + 1)), ())


def make_batch(boxes_per_image=(3, 1), image_sizes=((64, 96), (40, 50)), canvas=(64, 96)):
    """Two images of different sizes, with room for three boxes each."""
    boxes = np.array(
        [[[8, 8, 40, 40], [57, 20, 86, 55], [12, 0, 82, 61]], [[4, 2, 28, 30], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )
    return Batch(
        images=np.zeros((2, *canvas, 3), np.uint8),
        image_sizes=np.array(image_sizes),
        scale_factors=np.ones((2, 2), np.float32),
        indices=np.arange(2),
        boxes=boxes.astype(np.float32),
        labels=np.array([[2, 1, 0], [1, 0, 0]]),
        box_mask=np.arange(3) < np.array(boxes_per_image)[:, None],
    )


@pytest.fixture(scope="module")
def losses_and_gradients(small_detector):
    """The compiled losses, level by level, and the gradient of their sum."""

    def total(outputs, batch):
        losses = detection_losses(outputs, batch, small_detector)
        return sum(jnp.sum(x) for x in losses.values()), losses

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))

    def run(outputs, batch):
        (_, losses), gradients = compiled(outputs, batch)
        return jax.device_get((losses, gradients))

    return run


@pytest.fixture(scope="module")
def assigned(small_detector):
    locations = make_locations(GRIDS, small_detector.strides)
    strides, assigner = small_detector.strides, small_detector.assigner
    targets = jax.jit(lambda batch: assign_targets(batch, locations, strides, assigner))(make_batch())
    return locations, jax.device_get(targets)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def overlap_and_hull(a, b):
    """IoU of two boxes, and what GIoU subtracts."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = max(width, 0) * max(height, 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return common / union, (hull - union) / hull


def losses_by_hand(outputs, locations, targets):
    """Sums of each level, not normalized, location by location as in the paper and the reference."""
    levels = len(GRIDS)
    class_loss, box_loss, dfl = np.zeros(levels), np.zeros(levels), np.zeros(levels)
    weight_sum = 0.0
    logits = [np.concatenate([x[i].reshape(-1, 3) for x in outputs.class_logits]) for i in range(2)]
    sides = [np.concatenate([x[i].reshape(-1, 4, REG_MAX + 1) for x in outputs.box]) for i in range(2)]
    for i, n in np.ndindex(targets.valid.shape):
        if not targets.valid[i, n]:
            continue
        level, scores = locations.levels[n], sigmoid(logits[i][n].astype(np.float64))
        quality = np.zeros(3)
        if targets.positive[i, n]:
            point, true_box = (x / locations.strides[n] for x in (locations.points[n], targets.boxes[i, n]))
            probabilities = np.exp(sides[i][n].astype(np.float64))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            distances = probabilities @ np.arange(REG_MAX + 1)
            box = np.concatenate([point - distances[:2], point + distances[2:]])
            overlap, beyond = overlap_and_hull(box, true_box)
            quality[targets.labels[i, n]] = overlap
            weight = scores.max()
            weight_sum += weight
            box_loss[level] += weight * (1 - overlap + beyond)
            wanted = np.concatenate([point - true_box[:2], true_box[2:] - point])
            for side, distance in enumerate(np.clip(wanted, 0, REG_MAX - 0.1)):
                left = int(distance)
                share = distance - left
                likelihood = np.log(probabilities[side, left : left + 2])
                dfl[level] -= weight / 4 * ((1 - share) * likelihood[0] + share * likelihood[1])
        entropy = -quality * np.log(scores) - (1 - quality) * np.log(1 - scores)
        class_loss[level] += np.sum(np.abs(quality - scores) ** 2 * entropy)
    return class_loss, box_loss, dfl, weight_sum


def test_losses_by_hand_with_the_normalizers_of_the_whole_batch(losses_and_gradients, assigned):
    locations, targets = assigned
    outputs = random_outputs(GRIDS)
    found, _ = losses_and_gradients(outputs, make_batch())
    class_loss, box_loss, dfl, weight_sum = losses_by_hand(outputs, locations, targets)
    positives = targets.positive.sum(axis=1)
    assert np.all(positives > 0)
    assert weight_sum > 1
    np.testing.assert_allclose(found["loss_cls"], class_loss / positives.sum(), rtol=1e-4)
    np.testing.assert_allclose(found["loss_bbox"], 2 * box_loss / weight_sum, rtol=1e-4)
    np.testing.assert_allclose(found["loss_dfl"], 0.25 * dfl / weight_sum, rtol=1e-4)
    assert np.count_nonzero(box_loss) > 1


def test_an_image_without_boxes_counts_as_one_positive(losses_and_gradients, assigned):
    locations, targets = assigned
    outputs = random_outputs(GRIDS)
    found, _ = losses_and_gradients(outputs, make_batch(boxes_per_image=(3, 0)))
    positive = targets.positive * np.array([[True], [False]])
    alone = targets._replace(positive=positive)
    class_loss, box_loss, _, weight_sum = losses_by_hand(outputs, locations, alone)
    np.testing.assert_allclose(found["loss_cls"], class_loss / (positive.sum() + 1), rtol=1e-4)
    np.testing.assert_allclose(found["loss_bbox"], 2 * box_loss / max(weight_sum, 1), rtol=1e-4)


@pytest.mark.parametrize("image_sizes", [((64, 96), (40, 50)), ((1, 1), (1, 1))])
def test_a_batch_without_boxes_has_finite_losses(losses_and_gradients, image_sizes):
    batch = make_batch(boxes_per_image=(0, 0), image_sizes=image_sizes)
    losses, gradients = losses_and_gradients(random_outputs(GRIDS), batch)
    assert np.sum(losses["loss_cls"]) > 0
    assert np.all(losses["loss_bbox"] == 0)
    assert np.all(losses["loss_dfl"] == 0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))
    assert all(np.all(x == 0) for x in gradients.box)


@pytest.mark.parametrize("factor", [0, 50, 1000])
def test_extreme_outputs_have_finite_losses(losses_and_gradients, factor):
    outputs = jax.tree.map(lambda x: factor * x, random_outputs(GRIDS))
    losses, gradients = losses_and_gradients(outputs, make_batch())
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((losses, gradients)))


@pytest.mark.parametrize("padding", [1e9, -5.0, np.nan])
def test_padding_boxes_are_ignored(losses_and_gradients, padding):
    batch, outputs = make_batch(), random_outputs(GRIDS)
    boxes = np.where(batch.box_mask[..., None], batch.boxes, np.float32(padding))
    labels = np.where(batch.box_mask, batch.labels, 2)
    other = dataclasses.replace(batch, boxes=boxes, labels=labels)
    for a, b in zip(
        *(jax.tree.leaves(losses_and_gradients(outputs, x)) for x in (batch, other)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_the_canvas_beyond_the_images_is_ignored(losses_and_gradients):
    """The outputs are the same on a larger canvas, with other values in the additional part."""
    larger = ((12, 16), (6, 8), (3, 4))
    outputs, around = random_outputs(GRIDS), random_outputs(larger, seed=1)
    for small, large in zip(jax.tree.leaves(outputs), jax.tree.leaves(around), strict=True):
        large[:, : small.shape[1], : small.shape[2]] = small
    losses, gradients = losses_and_gradients(outputs, make_batch())
    others, other_gradients = losses_and_gradients(around, make_batch(canvas=(96, 128)))
    for name in losses:
        np.testing.assert_allclose(losses[name], others[name], rtol=1e-6)
    for small, large in zip(jax.tree.leaves(gradients), jax.tree.leaves(other_gradients), strict=True):
        inside = large[:, : small.shape[1], : small.shape[2]]
        np.testing.assert_allclose(small, inside, rtol=1e-5, atol=1e-9)
        assert np.count_nonzero(inside) == np.count_nonzero(large)


def test_the_order_of_the_images_does_not_matter(losses_and_gradients):
    batch, outputs = make_batch(), random_outputs(GRIDS)
    losses, _ = losses_and_gradients(outputs, batch)
    turned, _ = losses_and_gradients(*jax.tree.map(lambda x: x[::-1], (outputs, batch)))
    for name in losses:
        np.testing.assert_allclose(losses[name], turned[name], rtol=1e-5)


def test_no_gradient_flows_through_qualities_and_weights_to_the_class_logits(losses_and_gradients, assigned):
    """The gradient of the class logits is that of the class loss alone, with constant qualities.

    All scores are 0.5, where the weight of a box loss would have a slope if gradients flowed through it. The
    gradient must therefore be the same at all classes with quality 0.
    """
    _, targets = assigned
    outputs = random_outputs(GRIDS)
    even = jax.tree.map(np.zeros_like, outputs.class_logits)
    _, gradients = losses_and_gradients(outputs._replace(class_logits=even), make_batch())
    flat = np.concatenate([x.reshape(2, -1, 3) for x in gradients.class_logits], axis=1)
    at_quality_0 = targets.valid[..., None] & ~(
        np.eye(3, dtype=bool)[targets.labels] & targets.positive[..., None]
    )
    # |sigma|^2 times softplus has this slope at 0, divided by the number of positives.
    slope = 2 * 0.5 * 0.25 * np.log(2) + 0.25 * 0.5
    np.testing.assert_allclose(flat[at_quality_0], slope / targets.positive.sum(), rtol=1e-5)


def test_no_gradient_flows_through_qualities_to_the_boxes(losses_and_gradients):
    """If scores move to other classes, the class loss changes but the weights of the boxes stay the same."""
    outputs = random_outputs(GRIDS)
    turned = outputs._replace(class_logits=tuple(np.roll(x, 1, axis=-1) for x in outputs.class_logits))
    losses, gradients = losses_and_gradients(outputs, make_batch())
    other_losses, other_gradients = losses_and_gradients(turned, make_batch())
    assert not np.allclose(losses["loss_cls"], other_losses["loss_cls"])
    for a, b in zip(gradients.box, other_gradients.box, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("boxes_per_image", [(3, 1), (3, 0), (0, 0)])
def test_losses_of_parts_with_the_normalizers_of_the_whole_add_up(losses_of_parts, boxes_per_image):
    """The detector is FCOS, where the number of positives may be 0 in a part and in the whole."""
    batch, outputs = make_batch(boxes_per_image), random_outputs(GRIDS)
    whole, parts = losses_of_parts(outputs, batch)
    assert np.sum(whole["loss_cls"]) > 0
    assert (np.sum(whole["loss_bbox"]) > 0) == any(boxes_per_image)
    for name, loss in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), loss, rtol=1e-5)


@pytest.fixture(scope="module")
def losses_of_parts(small_detector):
    """The compiled losses of a batch of two, and those of each image with the normalizers of both."""
    assigner = config.Assigner(kind="fcos", range_bounds=(16, 32))
    fcos = dataclasses.replace(small_detector, assigner=assigner)

    def compute(outputs, batch):
        parts = [jax.tree.map(lambda x, i=i: x[i : i + 1], (outputs, batch)) for i in (0, 1)]
        counts = [loss_normalizers(*part, fcos) for part in parts]
        normalizers = Normalizers(*(a + b for a, b in zip(*counts, strict=True)))
        losses = [detection_losses(*part, fcos, normalizers) for part in parts]
        return detection_losses(outputs, batch, fcos), losses

    return jax.jit(compute)
