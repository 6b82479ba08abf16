"""Inference and training of a whole detector, against the forward pass of its network."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, Literal

import jax

from benchmarks.inputs import random_batch
from benchmarks.measure import Case, Row, Say, measure
from gfl_jax.config import Config
from gfl_jax.inference.detect import make_detect
from gfl_jax.models.conv_gradient import own_kernel_gradient
from gfl_jax.models.network import build_detector
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.parallel.mesh import make_mesh, put_batch, put_everywhere
from gfl_jax.training.optimizer import make_optimizer, make_schedule, scaled_learning_rate
from gfl_jax.training.state import TrainState, create_state
from gfl_jax.training.step import make_train_step

Precision = Literal["float32", "bfloat16"]


def detector_rows(
    config: Config, parts: Collection[str], batch_size: int, size: tuple[int, int], repeats: int, say: Say
) -> list[Row]:
    """Times the forward pass on one device, and those of "inference" and "train" that are in `parts`.

    The forward pass goes from normalized images to head outputs, inference from uint8 images to
    detections, a train step from uint8 images to new parameters. In float32 they are compared with the
    forward pass, in bfloat16 (not on a CPU) each with itself in float32. On a CPU the train step is also
    timed without gfl_jax's own gradients of convolution kernels.
    """
    mesh = make_mesh(devices=jax.devices()[:1])
    batch = put_batch(random_batch(batch_size, size, config.detector.num_classes), mesh)
    rate = scaled_learning_rate(config.optimizer, batch_size)
    schedule = make_schedule(config.schedule, rate, total_steps=90_000)
    optimizer = make_optimizer(config.optimizer, schedule, config.detector.backbone)
    say("making parameters")
    averaged = config.optimizer.ema_decay is not None
    state = create_state(build_detector(config.detector), optimizer, config.seed, averaged)
    training = _Training(put_everywhere(state, mesh))
    normalize = jax.jit(normalize_images, static_argnums=(2, 3))
    on_cpu = jax.default_backend() == "cpu"
    cases: list[Case] = []

    def add(part: str, precision: Precision, label: str, function: Any, inputs: Any) -> None:
        name = f"{label}, {precision}"
        other = "forward, float32" if precision == "float32" else f"{label}, float32"
        say(f"{part}: compiling {name}")
        trains = part == "train"
        compiled = function.lower(training.state if trains else training.state.variables, inputs).compile()
        run = functools.partial(training.step if trains else training.evaluate, compiled, inputs)
        cases.append(Case(part, name, size, batch_size, run, other if other != name else None, compiled))

    # The smaller precision comes first, because the device's peak memory is informative only while it rises.
    precisions: tuple[Precision, ...] = ("float32",) if on_cpu else ("bfloat16", "float32")
    for precision in precisions:
        model = build_detector(config.detector, precision)
        images = normalize(batch.images, batch.image_sizes, config.normalization, model.dtype)
        add("forward", precision, "forward", jax.jit(model.apply), images)
        if "inference" in parts:
            detect = make_detect(model, config.normalization, config.inference)
            add("inference", precision, "inference", detect, batch)
        if "train" in parts:
            precise = dataclasses.replace(config, precision=precision)
            step = make_train_step(model, optimizer, schedule, precise, mesh)
            add("train", precision, "train step", step, batch)
            if on_cpu:
                with own_kernel_gradient(False):
                    plain = make_train_step(model, optimizer, schedule, precise, mesh)
                    add("train", precision, "train step with XLA's kernel gradients", plain, batch)
    return measure(cases, repeats, say)


class _Training:
    """The state that all train steps share. Each step donates the memory of the state before."""

    def __init__(self, state: TrainState) -> None:
        self.state = state

    def evaluate(self, function: Callable[..., Any], inputs: Any) -> Any:
        """Calls a function of variables and inputs."""
        return function(self.state.variables, inputs)

    def step(self, function: Callable[..., Any], inputs: Any) -> Any:
        """Calls a train step."""
        self.state, metrics = function(self.state, inputs)
        return self.state, metrics
