"""Losses and detections have the precision of float32 on accelerators too.

By default a TPU multiplies float32 in bfloat16, and a GPU in TF32. The lowered program for a TPU shows which
products are rounded like that. Lowering it needs no TPU.
"""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.detection_loss import detection_losses
from gfl_jax.inference.detect import detections_from_outputs
from gfl_jax.models.network import build_detector
from gfl_jax.structures import Batch


def rounded_products(function, *arguments):
    """The lines of a program for a TPU that multiply in less than float32."""
    program = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    product = re.compile(r"stablehlo\.(dot|dot_general|convolution)\b")
    return [line for line in program.splitlines() if product.search(line) and line.count("HIGHEST") < 2]


def test_rounded_products_are_found():
    matrix, image = np.ones((2, 2), np.float32), np.ones((1, 1, 4, 4), np.float32)
    for precision, count in ((None, 1), ("high", 1), ("highest", 0)):
        product = partial(jnp.matmul, precision=precision)
        convolution = partial(jax.lax.conv, window_strides=(1, 1), padding="SAME", precision=precision)
        assert len(rounded_products(product, matrix, matrix)) == count
        assert len(rounded_products(convolution, image, image)) == count


@pytest.fixture
def batch():
    return Batch(
        images=np.zeros((2, 64, 96, 3), np.uint8),
        image_sizes=np.full((2, 2), 64),
        scale_factors=np.ones((2, 2), np.float32),
        indices=np.arange(2),
        boxes=np.zeros((2, 3, 4), np.float32),
        labels=np.zeros((2, 3), int),
        box_mask=np.ones((2, 3), bool),
    )


@pytest.mark.parametrize("kind", ["general", "gaussian"])
def test_losses_gradients_and_detections_have_no_rounded_products(small_detector, batch, kind):
    box = dataclasses.replace(small_detector.box, kind=kind)
    detector = dataclasses.replace(small_detector, box=box)
    model, images = build_detector(detector), jnp.zeros((2, 64, 96, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert rounded_products(model.apply, variables, images)
    outputs = jax.eval_shape(model.apply, variables, images)

    def loss(outputs, batch):
        return sum(jnp.sum(x) for x in detection_losses(outputs, batch, detector).values())

    def detect(outputs, batch):
        return detections_from_outputs(outputs, batch, detector, config.Inference(voting_sigma_t=0.05))

    assert rounded_products(jax.value_and_grad(loss), outputs, batch) == []
    assert rounded_products(detect, outputs, batch) == []
