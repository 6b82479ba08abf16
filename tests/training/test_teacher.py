"""Localization distillation in a run: losses, devices, micro-batches and checkpoints."""

import dataclasses
import signal

import jax
import numpy as np
import pytest
from test_loop import send, tamper  # noqa: F401
from test_step import assert_close
from tiny_training import CONFIG, DETECTOR, assert_same_run, change, make_batch, read_metrics

from gfl_jax import config
from gfl_jax.axes.box_representation import side_parameters
from gfl_jax.configuration.overrides import override
from gfl_jax.detection_loss import Lesson, detection_losses, loss_normalizers
from gfl_jax.errors import UserError
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import make_mesh, put_batch, put_everywhere, split_over_fsdp
from gfl_jax.training.checkpoint import load_variables
from gfl_jax.training.loop import train
from gfl_jax.training.optimizer import make_optimizer, make_schedule
from gfl_jax.training.state import create_state, state_shapes
from gfl_jax.training.step import make_train_step
from gfl_jax.training.teacher import box_maps, make_teacher

# The teacher has another network and another image normalization than the student.
LARGER = change(DETECTOR, head=change(DETECTOR.head, num_convs=2))
TEACHER = change(CONFIG, detector=LARGER, normalization=config.Normalization(channel_order="bgr"))
STUDENT = change(
    CONFIG,
    detector=change(DETECTOR, backbone=change(DETECTOR.backbone, norm="frozen")),
    distillation=config.Distillation(teacher="its teacher"),
    optimizer=config.Optimizer(weight_decay=0.0),
)


def variables_of(model, seed, dtype):
    """Variables drawn by numpy, on the host."""
    rng = np.random.default_rng(seed)
    shapes = state_shapes(model, make_optimizer(config.Optimizer(), lambda _: 0.1)).variables
    return jax.tree.map(lambda x: np.abs(rng.normal(0, 0.3, x.shape)).astype(dtype), shapes)


def one_step(experiment, devices):
    """The metrics and the new parameters after a step with a teacher."""
    mesh, dtype = make_mesh(devices=jax.devices()[:devices]), np.float64
    dtype = np.float32 if experiment.precision == "bfloat16" else dtype
    model, teacher = (
        build_detector(experiment.detector, experiment.precision),
        make_teacher(TEACHER, experiment),
    )
    schedule = make_schedule(experiment.schedule, 0.05, 12)
    optimizer = make_optimizer(experiment.optimizer, schedule, experiment.detector.backbone)
    state = create_state(model, optimizer, 0)
    state = dataclasses.replace(state, **variables_of(model, 1, dtype))
    state = jax.device_put(state, split_over_fsdp(state, mesh))
    teacher_variables = put_everywhere(variables_of(teacher.model, 2, dtype), mesh)
    step = make_train_step(model, optimizer, schedule, experiment, mesh, teacher)
    new, metrics = step(state, put_batch(make_batch(0), mesh), teacher_variables)
    return jax.device_get((metrics, new.params))


@pytest.fixture(scope="module")
def alone():
    """The result of a step on one device in float64."""
    with jax.enable_x64(True):
        return one_step(change(STUDENT, precision="float64"), 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_eight_devices_and_micro_batches_equal_one_batch_on_one_device(alone, accumulate):
    optimizer = change(STUDENT.optimizer, accumulate=accumulate)
    experiment = change(STUDENT, precision="float64", optimizer=optimizer)
    with jax.enable_x64(True):
        found = one_step(experiment, 8 if accumulate == 1 else 4)
    assert found[0]["loss_ld"] > 0
    assert_close(found, alone)


def test_bfloat16_gives_about_the_same_loss(alone):
    metrics, _ = one_step(change(STUDENT, precision="bfloat16"), 1)
    np.testing.assert_allclose(metrics["loss_ld"], alone[0]["loss_ld"], rtol=0.1)


def test_the_loss_has_an_upper_bound_and_the_right_normalizer():
    """Checked with the outputs of both networks on two images. Twice the images halves the weight of each."""
    batch = make_batch(0, batch_size=2)
    model, teacher = build_detector(STUDENT.detector), make_teacher(TEACHER, STUDENT)
    variables = variables_of(model, 1, np.float32)
    teacher_variables = variables_of(teacher.model, 2, np.float32)
    images = np.asarray(batch.images, np.float32) / 255

    @jax.jit
    def compute(variables, teacher_variables, batch, images):
        outputs = model.apply(variables, images)
        lesson = Lesson(box_maps(teacher, teacher_variables, batch), STUDENT.distillation)
        found = detection_losses(outputs, batch, STUDENT.detector, lesson=lesson)
        without = detection_losses(outputs, batch, STUDENT.detector)
        normalizers = loss_normalizers(outputs, batch, STUDENT.detector)
        doubled = normalizers._replace(images=2 * normalizers.images)
        half = detection_losses(outputs, batch, STUDENT.detector, doubled, lesson=lesson)
        sides = [side_parameters(maps, STUDENT.detector.box) for maps in (outputs.box, lesson.box)]
        return found, without, half, sides, normalizers, outputs.class_logits

    found, without, half, (own, other), normalizers, _ = compute(variables, teacher_variables, batch, images)
    for name, loss in without.items():
        np.testing.assert_array_equal(found[name], loss)
    np.testing.assert_allclose(half["loss_ld"], found["loss_ld"] / 2, rtol=1e-6)
    assert normalizers.images == 2
    assert np.sum(found["loss_ld"]) > 0
    # The upper bound: each positive has its full weight, and the largest divergence of all sides.
    p, q = (np.exp(np.asarray(x) / 10) for x in (other, own))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    largest = 100 * np.max(np.sum(p * np.log(p / q), axis=-1)) / own.shape[-1]
    assert np.sum(found["loss_ld"]) <= 0.25 * largest * normalizers.box_weights


def test_a_run_with_a_teacher_resumes_bit_identically(
    tiny_config,
    whole_run,
    tmp_path,
    tamper,  # noqa: F811
):
    learning = override(tiny_config, {"distillation.teacher": str(whole_run), "schedule.steps": 6})
    train(learning, tmp_path / "whole")
    tamper(3, send(signal.SIGTERM))
    assert train(learning, tmp_path / "stopped") == {}
    train(learning, tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole", 6)
    assert all(row["loss_ld"] > 0 for row in read_metrics(tmp_path / "whole") if "loss" in row)
    # Checkpoints do not contain the teacher's weights.
    shapes = [jax.tree.map(np.shape, load_variables(run)) for run in (tmp_path / "whole", whole_run)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distillation.teacher": "nowhere"}, "nowhere: is neither a work directory"),
        ({"detector.box.reg_max": 5}, "config.detector.box.reg_max must equal the teacher's"),
        ({"detector.box.kind": "dirac"}, "config.detector.box.kind must equal the teacher's"),
        ({"detector.assigner.cell_centers": True}, "config.detector.assigner.cell_centers must equal"),
    ],
)
def test_a_teacher_that_does_not_fit_is_an_error(tiny_config, whole_run, tmp_path, changes, words):
    learning = override(tiny_config, {"distillation.teacher": str(whole_run)} | changes)
    with pytest.raises(UserError, match=words):
        train(learning, tmp_path / "run")
