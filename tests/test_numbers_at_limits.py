"""Numbers of a config at the ends of their ranges and at unusual values: they work, or raise a `UserError`.

Only plans and rates are computed. For networks, losses and detections only the shapes are computed.
"""

import dataclasses
import math
import sys
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.configuration.experiment_check import check_experiment
from gfl_jax.configuration.fields import Range, field_types
from gfl_jax.configuration.overrides import override
from gfl_jax.data.plan import describe_shapes, evaluation_plan, train_plan
from gfl_jax.detection_loss import detection_losses
from gfl_jax.errors import UserError
from gfl_jax.inference.detect import detections_from_outputs
from gfl_jax.models.network import build_detector
from gfl_jax.training.optimizer import make_optimizer, make_schedule

sys.path.insert(0, str(Path(__file__).parent / "training"))
from tiny_training import CONFIG, change, make_batch

SIZES = np.array([(64, 64), (64, 96), (96, 64), (40, 333), (1, 1)])
BATCH = make_batch(0, batch_size=2, boxes=2)
RESIZED = change(
    CONFIG,
    resize=config.Resize(short_side=64, long_side=96, train_short_sides=(64, 64)),
    loader=change(CONFIG.loader, batch_size=2),
)
CROPPED = change(RESIZED, crops=config.Crops(size=64))
DEFORMABLE = override(
    RESIZED, {"detector.backbone.block": "bottleneck", "detector.backbone.deform_stages": (3,)}
)
# These numbers change shapes, and may not fit the others. The other numbers of a detector always fit.
STRUCTURE = {
    *("detector.num_classes", "detector.assigner.topk", "detector.assigner.anchor_octave_parts"),
    *("detector.box.reg_max", "detector.backbone.frozen_stages", "detector.backbone.groups"),
    *("detector.backbone.group_width", "detector.backbone.deform_groups", "detector.pyramid.channels"),
    *("detector.pyramid.num_laterals", "detector.pyramid.num_levels", "detector.head.channels"),
    *("detector.head.num_convs", "detector.head.num_groups"),
    *("inference.candidates_per_level", "inference.max_detections"),
}


def numbers(instance, prefix=""):
    """Yields the dotted name, type and range of each field that holds one number."""
    for name, hint in field_types(type(instance)).items():
        value = getattr(instance, name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{prefix}{name}.")
        for part in typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,):
            if typing.get_origin(part) is typing.Annotated:
                yield prefix + name, part.__origin__, part.__metadata__[0]


def ends(kind, range_: Range):
    """Returns the smallest and the largest number of a range."""
    low = range_.least if range_.least is not None else math.nextafter(range_.above, math.inf)
    high = range_.most if range_.most is not None else math.nextafter(range_.below, -math.inf)
    return kind(low), kind(high)


NUMBERS = {name: (kind, range_) for name, kind, range_ in numbers(CROPPED)}
OF_DETECTOR = {name for name in NUMBERS if name.startswith(("detector.", "inference."))}


def detector_shapes(experiment):
    """Runs all checks, and computes the shapes of losses and detections. Returns those of detections."""
    check_experiment(experiment)
    detector = experiment.detector
    model = build_detector(detector)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))

    def run(variables, batch):
        outputs = model.apply(variables, batch.images.astype(np.float32))
        losses = detection_losses(outputs, batch, detector)
        return losses, detections_from_outputs(outputs, batch, detector, experiment.inference)[0]

    losses, detections = jax.eval_shape(run, variables, BATCH)
    assert {"loss_cls", "loss_bbox"} <= losses.keys()
    return detections


def plan_and_rates(experiment):
    """Computes the plans of an epoch and of an evaluation, and the rates at both ends of a run."""
    check_experiment(experiment)
    describe_shapes(SIZES, experiment, training=True)
    assert train_plan(SIZES, experiment, epoch=0)
    assert evaluation_plan(SIZES, experiment)
    steps = experiment.schedule.steps or experiment.schedule.epochs
    schedule = make_schedule(experiment.schedule, experiment.optimizer.learning_rate, steps)
    assert np.isfinite([schedule(0), schedule(steps - 1)]).all()
    for kind in ("sgd", "adamw"):
        optimizer = make_optimizer(change(experiment.optimizer, kind=kind), schedule)
        weights = {"conv": {"kernel": np.ones(2, np.float32), "bias": np.ones(2, np.float32)}}
        jax.eval_shape(optimizer.update, weights, jax.eval_shape(optimizer.init, weights), weights)


OTHERS = sorted(NUMBERS.keys() - OF_DETECTOR)


@pytest.mark.parametrize("name", OTHERS)
def test_numbers_of_data_and_training(name):
    kind, range_ = NUMBERS[name]
    base = RESIZED if name.startswith("resize.") else CROPPED
    odd = (2, 3, 7, 97) if kind is int else (1 / 3, 0.999, 1.0)
    for value in (*ends(kind, range_), *filter(range_.has, odd)):
        works_or_raises_one_line(plan_and_rates, base, name, value)


@pytest.mark.parametrize("name", sorted(STRUCTURE))
@pytest.mark.parametrize("end", [0, 1])
def test_numbers_of_the_detector_structure(name, end):
    base = DEFORMABLE if "group" in name and "backbone" in name else RESIZED
    works_or_raises_one_line(detector_shapes, base, name, ends(*NUMBERS[name])[end])


def works_or_raises_one_line(function, base, name, value):
    line = ""
    try:
        function(override(base, {name: value}))
    except UserError as error:
        line = str(error)
    assert not line or line.startswith("config.")
    assert len(line.splitlines()) <= 1


@pytest.mark.parametrize("end", [0, 1])
def test_all_other_numbers_of_a_detector_at_once(end):
    values = {name: ends(*NUMBERS[name])[end] for name in OF_DETECTOR - STRUCTURE}
    assert len(values) > 15
    assert detector_shapes(override(RESIZED, values)).boxes.shape == (2, 100, 4)
