"""The models of the paper's tables: their speed, cost and memory."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.inputs import random_batch
from benchmarks.measure import Case, Row, Say, measure
from gfl_jax.config import Config
from gfl_jax.inference.detect import make_detect
from gfl_jax.models.network import build_detector
from gfl_jax.models.preprocess import normalize_images

MATRIX = 4096  # rows and columns of the product that stands for the machine's peak


def model_rows(
    configs: Mapping[str, Config],
    batch_sizes: tuple[int, ...],
    size: tuple[int, int],
    precisions: tuple[str, ...],
    repeats: int,
    say: Say,
) -> list[list[Row]]:
    """Times each model's network alone, and its whole inference from uint8 images to detections.

    All models of a batch size and precision are measured in turns, and compared with the first one. Their
    GFLOP/s are compared with those of a product of two large matrices, which stand for the machine's peak.
    """
    groups = []
    for batch_size in batch_sizes:
        for precision in precisions:
            cases = [_matrix_product(precision, size, batch_size)]
            for name, config in configs.items():
                say(f"models: compiling {name}")
                cases += _model_cases(name, config, batch_size, size, precision, next(iter(configs)))
            groups.append(measure(cases, repeats, say))
    return groups


def _model_cases(
    name: str, config: Config, batch_size: int, size: tuple[int, int], precision: str, first: str
) -> list[Case]:
    model = build_detector(config.detector, precision)
    batch = jax.device_put(random_batch(batch_size, size, config.detector.num_classes))
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)
    normalize = jax.jit(normalize_images, static_argnums=(2, 3))
    images = normalize(batch.images, batch.image_sizes, config.normalization, model.dtype)
    detect: Any = make_detect(model, config.normalization, config.inference)
    cases = []
    for label, function, inputs in (
        ("network", jax.jit(model.apply), images),
        ("inference", detect, batch),
    ):
        compiled = function.lower(variables, inputs).compile()
        run = functools.partial(compiled, variables, inputs)
        against = None if name == first else f"{first}, {label}, {precision}"
        cases.append(
            Case(
                *("models", f"{name}, {label}, {precision}", size, batch_size, run, against, compiled),
                calls=1,
                peak=_peak_name(precision),
            )
        )
    return cases


def _matrix_product(precision: str, size: tuple[int, int], batch_size: int) -> Case:
    matrix = jnp.ones((MATRIX, MATRIX), precision)
    compiled = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    run = functools.partial(compiled, matrix, matrix)
    return Case("models", _peak_name(precision), size, batch_size, run, None, compiled)


def _peak_name(precision: str) -> str:
    return f"matrix product {MATRIX}, {precision}"
