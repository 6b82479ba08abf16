"""The programs of training and inference, lowered from shapes alone, without weights and images."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gfl_jax.config import Config
from gfl_jax.data.buckets import Shape, by_area
from gfl_jax.data.loader import reads_blocks
from gfl_jax.data.plan import named_buckets
from gfl_jax.inference.detect import make_detect
from gfl_jax.inference.views import view_canvas, views_of
from gfl_jax.models.network import DetectorNetwork, build_detector
from gfl_jax.parallel.mesh import platform_of, replicated, split_by_batch, split_over_fsdp, with_shardings
from gfl_jax.pixel_blocks import BLOCK_HEIGHT, BLOCK_WIDTH, CHANNELS
from gfl_jax.structures import Batch
from gfl_jax.training.optimizer import (
    make_optimizer,
    make_schedule,
    scaled_learning_rate,
    trainable_mask,
    trained_only,
)
from gfl_jax.training.state import state_shapes
from gfl_jax.training.step import make_train_step
from gfl_jax.training.teacher import make_teacher
from gfl_jax.training.trained import trained_config

# Rows for boxes in a batch. COCO's images have up to 93 boxes. Additional rows cost almost nothing.
BOXES = 96
# Steps of the run. The value does not matter: it is only a constant in the program.
_STEPS = 90_000


def lower_training(config: Config, mesh: Mesh, canvas: Shape, images: int) -> jax.stages.Lowered:
    """Lowers the train step for batches of `images` images in total, on canvases of (height, width)."""
    config = dataclasses.replace(config, loader=dataclasses.replace(config.loader, batch_size=images))
    model = build_detector(config.detector, config.precision)
    schedule = make_schedule(config.schedule, scaled_learning_rate(config.optimizer, images), _STEPS)
    optimizer = make_optimizer(config.optimizer, schedule, config.detector.backbone)
    shapes = state_shapes(model, optimizer, ema=config.optimizer.ema_decay is not None)
    state = with_shardings(shapes, split_over_fsdp(shapes, mesh))
    teacher, teacher_variables = None, tuple[Any, ...]()
    if config.distillation.teacher:
        teacher = make_teacher(trained_config(config.distillation.teacher), config)
        teacher_variables = (with_shardings(_variables(teacher.model, config), replicated(mesh)),)
    step: Any = make_train_step(model, optimizer, schedule, config, mesh, teacher)  # jitted
    batch = abstract_batch(mesh, canvas, images, reads_blocks(config, platform_of(mesh)))
    return step.lower(state, batch, *teacher_variables)


def lower_inference(config: Config, mesh: Mesh, canvas: Shape, images: int) -> jax.stages.Lowered:
    """Lowers inference in a single view, for batches of `images` images in total."""
    model = build_detector(config.detector, config.precision)
    variables = _variables(model, config)
    detect: Any = make_detect(model, config.normalization, config.inference, mesh, config.compiler)  # jitted
    return detect.lower(
        with_shardings(variables, replicated(mesh)),
        abstract_batch(mesh, canvas, images, reads_blocks(config, platform_of(mesh))),
    )


def _variables(model: DetectorNetwork, config: Config) -> Any:
    return state_shapes(model, make_optimizer(config.optimizer, lambda _: 0.0)).variables


def abstract_batch(mesh: Mesh, canvas: Shape, images: int, blocks: bool = False) -> Batch:
    """The shapes of a global batch, split over the devices, with images in blocks or in pixels."""
    height, width = canvas
    block = (height // BLOCK_HEIGHT, width // BLOCK_WIDTH, CHANNELS)
    image = block if blocks else (height, width, 3)

    def array(*shape: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((images, *shape), dtype, sharding=split_by_batch(mesh))

    return Batch(
        images=array(*image, dtype=jnp.uint8),
        image_sizes=array(2, dtype=jnp.int32),
        scale_factors=array(2, dtype=jnp.float32),
        indices=array(dtype=jnp.int32),
        boxes=array(BOXES, 4, dtype=jnp.float32),
        labels=array(BOXES, dtype=jnp.int32),
        box_mask=array(BOXES, dtype=jnp.bool_),
    )


def training_canvases(config: Config) -> list[Shape]:
    """The shapes of training batches, smallest first. The train step is compiled once for each."""
    if config.crops is not None:
        return [(config.crops.size, config.crops.size)]
    return by_area(named_buckets(config, "--size"))


def inference_canvases(config: Config) -> list[Shape]:
    """The shapes of evaluation batches, smallest first. Mirrored views have the shapes of plain ones."""
    scales = {view.scale for view in views_of(config.inference)}
    return by_area(
        [view_canvas(bucket, scale) for bucket in named_buckets(config, "--size") for scale in scales]
    )


def gradient_bytes(config: Config) -> int:
    """The bytes that chips have to sum: the gradients of all trained parameters, in their own data type."""
    model = build_detector(config.detector, config.precision)
    params = state_shapes(model, make_optimizer(config.optimizer, lambda _: 0.0)).params
    trained = trained_only(params, trainable_mask(params, config.detector.backbone))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trained))
