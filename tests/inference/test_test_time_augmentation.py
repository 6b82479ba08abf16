import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.data.annotations import no_annotations
from gfl_jax.data.loader import eval_batches
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.inference import test_time_augmentation
from gfl_jax.inference.decode import Candidates, decode
from gfl_jax.inference.detect import make_detect
from gfl_jax.inference.test_time_augmentation import make_detect_in_views, merge_candidates, to_original
from gfl_jax.inference.views import PLAIN, View, views_of
from gfl_jax.models.network import build_detector
from gfl_jax.structures import HeadOutputs

INFERENCE = config.Inference(score_threshold=0.0, max_detections=20)
merge = jax.jit(merge_candidates, static_argnames="inference")


def candidates_of(boxes, scores, variances=None, labels=None):
    """Candidates of one image."""
    boxes = jnp.array([boxes], jnp.float32)
    count = boxes.shape[1]
    return Candidates(
        boxes=boxes,
        scores=jnp.array([scores], jnp.float32),
        labels=jnp.array([labels or [0] * count]),
        mask=jnp.ones((1, count), bool),
        variances=jnp.ones_like(boxes) if variances is None else jnp.array([variances], jnp.float32),
        positions=jnp.arange(count)[None],
    )


def found(detections):
    mask = detections.mask[0]
    return detections.boxes[0][mask].tolist(), detections.scores[0][mask].tolist()


def test_boxes_and_variances_of_a_scaled_view_in_the_original_image():
    view = candidates_of([[10, 20, 30, 60]], [0.5], [[4, 16, 8, 32]])
    back = to_original(view, jnp.array([[80, 100]]), jnp.array([[2.0, 4.0]]), flip=False)
    assert back.boxes.tolist() == [[[5, 5, 15, 15]]]
    assert back.variances.tolist() == [[[1, 1, 2, 2]]]
    assert back.scores.tolist() == [[0.5]]


def test_boxes_and_variances_of_a_mirrored_view():
    """The width of the view, 100 pixels, counts, not that of its canvas."""
    view = candidates_of([[10, 20, 30, 60]], [0.5], [[4, 16, 8, 32]])
    back = to_original(view, jnp.array([[80, 100]]), jnp.array([[2.0, 4.0]]), flip=True)
    assert back.boxes.tolist() == [[[35, 5, 45, 15]]]
    assert back.variances.tolist() == [[[2, 1, 1, 2]]]


def test_candidates_of_the_views_suppress_each_other_within_a_class():
    first = candidates_of([[0, 0, 10, 10], [50, 50, 60, 60]], [0.6, 0.3])
    second = candidates_of([[0, 0, 10, 9], [0, 0, 10, 10]], [0.7, 0.5], labels=[0, 1])
    boxes, scores = found(merge([first, second], INFERENCE))
    assert boxes == [[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]]
    np.testing.assert_allclose(scores, [0.7, 0.5, 0.3])


def test_views_vote_by_the_variances_of_their_sides():
    """The IoU is 0.8. Sides of equal variance meet at a mean weighted by exp(-0.04 / 0.04).

    A side of nearly no variance decides alone.
    """
    first = candidates_of([[0, 0, 10, 10]], [0.9], [[1, 1, 1, 1]])
    second = candidates_of([[0, 0, 8, 10]], [0.8], [[1, 1, 1, 1]])
    sure = candidates_of([[0, 0, 8, 10]], [0.8], [[1, 1, 1e-5, 1]])
    voting = dataclasses.replace(INFERENCE, voting_sigma_t=0.04)
    boxes, _ = found(merge([first, second], voting))
    weight = np.exp(-1)
    np.testing.assert_allclose(boxes, [[0, 0, (10 + 8 * weight) / (1 + weight), 10]], rtol=1e-5)
    boxes, _ = found(merge([first, sure], voting))
    np.testing.assert_allclose(boxes, [[0, 0, 8, 10]], atol=1e-3)


def symmetric_outputs(detector):
    """Outputs for an image 48 pixels wide: two boxes mirror each other, and one mirrors itself."""
    grids, bins = ((4, 6), (2, 3), (1, 2)), detector.box.reg_max + 1
    class_logits = [np.full((1, *grid, detector.num_classes), -50, np.float32) for grid in grids]
    box = [np.zeros((1, *grid, 4, bins), np.float32) for grid in grids]
    for column, distances in ((1, (1, 1, 2, 1)), (5, (2, 1, 1, 1)), (3, (1, 1, 1, 2))):
        class_logits[0][0, 2, column, 1] = 1.0
        box[0][0, 2, column, range(4), distances] = 20
    return HeadOutputs(tuple(class_logits), tuple(x.reshape(*x.shape[:3], -1) for x in box), ())


def test_a_mirrored_symmetric_scene_has_the_same_boxes(small_detector):
    """The detections of the mirrored view, mapped back, equal those of the plain view."""
    outputs = jax.tree.map(jnp.asarray, symmetric_outputs(small_detector))
    sizes, scale = jnp.array([[32, 48]]), jnp.ones((1, 2))
    inference = dataclasses.replace(INFERENCE, score_threshold=0.5)
    plain = jax.jit(lambda outputs: decode(outputs, sizes, small_detector, inference))(outputs)
    mirrored = to_original(plain, sizes, scale, flip=True)
    for rows in (plain, mirrored):
        boxes = np.asarray(rows.boxes[0][rows.mask[0]])
        np.testing.assert_allclose(
            boxes[np.argsort(boxes[:, 0])],
            [[0, 8, 24, 24], [16, 8, 32, 32], [24, 8, 48, 24]],
            atol=1e-4,
        )
    alone, merged = (merge(views, inference) for views in ([plain], [plain, mirrored]))
    assert int(alone.mask.sum()) == 3
    np.testing.assert_allclose(merged.boxes, alone.boxes, atol=1e-4)
    np.testing.assert_allclose(merged.scores, alone.scores)


@pytest.fixture(scope="module")
def experiment(small_detector):
    return config.Config(
        name="test",
        detector=small_detector,
        resize=config.Resize(short_side=None),
        loader=config.Loader(eval_batch_size=1, buckets=((64, 96),), workers=0),
        inference=INFERENCE,
    )


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


def batches_of(image, experiment, views=(PLAIN,)):
    """The batches that the loader makes of an image in evaluations, one for each view."""
    table = no_annotations(np.array([image.shape[:2]]), np.array([1]), ("image",))
    source = Source("image", ("red", "green", "blue"), (1, 2, 3), table, lambda i: image)
    with eval_batches(source, experiment, views=views) as batches:
        return list(batches)


def detector_in_views(experiment, **changes):
    inference = dataclasses.replace(experiment.inference, **changes)
    model = build_detector(experiment.detector)
    detect = make_detect_in_views(model, experiment.normalization, inference)
    return lambda variables, image: jax.device_get(
        detect(variables, batches_of(image, experiment, views_of(inference)))
    )


def test_two_equal_views_give_the_detections_of_one(experiment, variables, image):
    detect = make_detect(build_detector(experiment.detector), experiment.normalization, INFERENCE)
    one = jax.device_get(detect(variables, batches_of(image, experiment)[0]))
    two = detector_in_views(experiment, test_scales=(1.0, 1.0))(variables, image)
    assert one.mask.sum() == 20
    np.testing.assert_allclose(two.boxes, one.boxes, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(two.scores, one.scores, rtol=1e-5)
    np.testing.assert_array_equal(two.labels, one.labels)


def test_detections_of_an_image_and_of_its_mirror_image_mirror_each_other(
    experiment, variables, image, monkeypatch
):
    """The network is traced once for each scale, because mirrored views have the same shape."""
    traced = []
    monkeypatch.setattr(test_time_augmentation, "decode", lambda *a: traced.append(1) or decode(*a))
    detect = detector_in_views(experiment, test_scales=(0.5, 1.0), test_flip=True)
    straight, mirrored = detect(variables, image), detect(variables, image[:, ::-1].copy())
    assert len(traced) == 2
    x1, y1, x2, y2 = mirrored.boxes[0].T
    back = np.stack([90 - x2, y1, 90 - x1, y2], axis=1)
    np.testing.assert_allclose(back, straight.boxes[0], atol=1e-3)
    np.testing.assert_allclose(mirrored.scores, straight.scores, rtol=1e-4)
    assert (straight.boxes >= 0).all()
    assert (straight.boxes <= [90, 60, 90, 60]).all()


def test_views_of_an_image_are_resized_mirrored_and_padded(experiment, image):
    views = (PLAIN, View(1.0), View(0.5), View(1.0, flip=True))
    first, plain, half, flipped = batches_of(image, experiment, views)
    assert first.images.shape == plain.images.shape == (1, 64, 96, 3)
    np.testing.assert_array_equal(flipped.images[0, :60, :90], image[:, ::-1])
    np.testing.assert_array_equal(flipped.images[0, :, 90:], 0)
    assert half.images.shape == (1, 32, 64, 3)
    assert half.image_sizes.tolist() == [[30, 45]]
    assert half.scale_factors.tolist() == [[0.5, 0.5]]


def test_no_scales_and_voting_without_variances_are_errors(small_detector):
    model = build_detector(small_detector)
    with pytest.raises(UserError, match=r"config\.inference\.test_scales=\(\)"):
        make_detect_in_views(model, config.Normalization(), config.Inference(test_scales=()))
    dirac = dataclasses.replace(small_detector, box=config.BoxRepresentation(kind="dirac"))
    voting = config.Inference(voting_sigma_t=0.05, test_flip=True)
    with pytest.raises(UserError, match=r"config\.inference\.voting_sigma_t: variance voting needs"):
        make_detect_in_views(build_detector(dirac), config.Normalization(), voting)
