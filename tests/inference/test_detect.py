import dataclasses
import re

import jax
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.inference.detect import make_detect
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import make_mesh, put_batch, put_everywhere
from gfl_jax.structures import Batch

INFERENCE = config.Inference(score_threshold=0.0, max_detections=20)


def make_batch(canvas=(64, 96), sizes=((64, 96), (50, 40)), scale=1.0):
    rng = np.random.default_rng(0)
    count = len(sizes)
    images = np.zeros((count, *canvas, 3), np.uint8)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:height, :width] = rng.integers(0, 256, (height, width, 3))
    return Batch(
        images=images,
        image_sizes=np.array(sizes, np.int32),
        scale_factors=np.full((count, 2), scale, np.float32),
        indices=np.arange(count, dtype=np.int32),
        boxes=np.zeros((count, 8, 4), np.float32),
        labels=np.zeros((count, 8), np.int32),
        box_mask=np.zeros((count, 8), bool),
    )


@pytest.fixture(scope="module")
def detect(small_detector):
    return make_detect(build_detector(small_detector), config.Normalization(), INFERENCE)


@pytest.fixture(scope="module")
def detections(detect, variables):
    return jax.device_get(detect(variables, make_batch()))


def test_detections_have_a_fixed_number_and_come_best_first(detections):
    assert detections.boxes.shape == (2, 20, 4)
    assert detections.scores.shape == detections.labels.shape == detections.mask.shape == (2, 20)
    assert detections.mask.any(axis=1).all()
    assert np.all(np.diff(detections.scores, axis=1) <= 0)
    assert set(detections.labels[detections.mask]) <= {0, 1, 2}
    for i, (height, width) in enumerate(((64, 96), (50, 40))):
        boxes = detections.boxes[i][detections.mask[i]]
        assert np.all(boxes >= 0)
        assert np.all(boxes <= [width, height, width, height])


def test_boxes_are_in_pixels_of_the_original_image(detect, variables, detections):
    scales = np.array([[2.0, 4.0], [0.5, 1.0]], np.float32)
    batch = dataclasses.replace(make_batch(), scale_factors=scales)
    found = jax.device_get(detect(variables, batch))
    np.testing.assert_allclose(found.boxes, detections.boxes / np.tile(scales, 2)[:, None], rtol=1e-6)
    np.testing.assert_array_equal(found.scores, detections.scores)


def test_true_boxes_and_other_images_have_no_influence(detect, variables, detections):
    batch = make_batch()
    images = batch.images.copy()
    images[1] = 255 - images[1]
    other = dataclasses.replace(batch, images=images, boxes=batch.boxes + 9, box_mask=~batch.box_mask)
    found = jax.device_get(detect(variables, other))
    np.testing.assert_allclose(found.boxes[0], detections.boxes[0], rtol=1e-5, atol=1e-4)
    assert not np.array_equal(found.scores[1], detections.scores[1])


def test_one_compilation_for_each_batch_shape(small_detector, variables):
    detect = make_detect(build_detector(small_detector), config.Normalization(), INFERENCE)
    for canvas in ((64, 64), (32, 64), (64, 64), (32, 64)):
        for size in ((32, 50), (20, 64), (1, 1)):
            detect(variables, make_batch(canvas, (size,)))
    assert detect._cache_size() == 2


def test_without_candidates_detections_are_empty(small_detector, variables):
    nothing = dataclasses.replace(INFERENCE, score_threshold=1.0, max_detections=3)
    detect = make_detect(build_detector(small_detector), config.Normalization(), nothing)
    found = jax.device_get(detect(variables, make_batch((64, 64), ((64, 64),))))
    assert not found.mask.any()
    assert np.all(found.boxes == 0)
    assert np.all(found.scores == 0)


def test_devices_detect_in_their_own_images_without_communication(small_detector, variables, detect):
    mesh = make_mesh(config.Mesh(fsdp=2), jax.devices()[:4])
    apart = make_detect(build_detector(small_detector), config.Normalization(), INFERENCE, mesh)
    batch = make_batch(sizes=((64, 96), (50, 40), (64, 64), (30, 96)))
    arguments = put_everywhere(variables, mesh), put_batch(batch, mesh)
    compiled = apart.lower(*arguments).compile()
    assert not re.search("all-gather|all-reduce|all-to-all|collective-permute", compiled.as_text())
    found, expected = jax.device_get((compiled(*arguments), detect(variables, batch)))
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
