"""Requirement: k micro-batches equal one full batch within 1e-6 in float64, including normalizers."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import CONFIG, DETECTOR, change, make_batch

from gfl_jax import config
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import make_mesh, put_batch
from gfl_jax.training.gradient import loss_and_gradient, micro_batches, run_network
from gfl_jax.training.optimizer import make_optimizer, make_schedule
from gfl_jax.training.state import TrainState, state_shapes
from gfl_jax.training.step import make_train_step

SIZE, IMAGES, BOXES = (64, 64), 32, 4
GFL = change(DETECTOR, backbone=change(DETECTOR.backbone, norm="frozen"))
ATSS = change(
    GFL,
    quality="centerness",
    classification=config.ClassificationLoss(kind="focal"),
    box=config.BoxRepresentation(kind="dirac", coding="deltas", weighting="centerness"),
)
WAYS = ((1, 1), (4, 1), (2, 8))  # (micro-batches, devices)


class Compiled(NamedTuple):
    """A train step compiled for some devices."""

    text: str
    temporary_bytes: int
    results: list  # of each batch: the new state and the metrics


def batches():
    """Batches with boxes in all images, in every second one (whole micro-batches have none), and in none."""
    batch = make_batch(0, SIZE, IMAGES, BOXES)
    second = np.arange(IMAGES)[:, None] % 2 == 1
    masks = (batch.box_mask, batch.box_mask & ~second, batch.box_mask & False)
    return [change(batch, box_mask=mask) for mask in masks]


def random_state(model, optimizer, dtype=np.float64):
    """A state before the first step, drawn by numpy. It is on the host, because a step donates its arrays."""
    rng = np.random.default_rng(0)
    shapes = state_shapes(model, optimizer)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(dtype), shapes.params)
    batch_stats = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(dtype), shapes.batch_stats)
    return jax.device_get(TrainState(jnp.array(0, jnp.int32), params, batch_stats, optimizer.init(params)))


@pytest.fixture(scope="module", params=[GFL, ATSS], ids=["gfl", "atss"])
def compiled(request):
    """For each of `WAYS`, a train step in float64: its program and its results for each batch."""

    def compile_and_run(accumulate, devices):
        optimizer_config = config.Optimizer(weight_decay=0.0, accumulate=accumulate)
        experiment = change(CONFIG, precision="float64", detector=request.param, optimizer=optimizer_config)
        mesh = make_mesh(devices=jax.devices()[:devices])
        step = make_train_step(model, optimizer, schedule, experiment, mesh)
        given = [put_batch(batch, mesh) for batch in batches()]
        program = step.lower(state, given[0]).compile()
        placed = lambda: jax.device_put(state, program.input_shardings[0][0])  # noqa: E731
        results = [jax.device_get(program(placed(), batch)) for batch in given]
        return Compiled(program.as_text(), program.memory_analysis().temp_size_in_bytes, results)

    with jax.enable_x64(True):
        model = build_detector(request.param, "float64")
        schedule = make_schedule(CONFIG.schedule, 0.05, 12)
        optimizer = make_optimizer(config.Optimizer(weight_decay=0.0), schedule)
        state = random_state(model, optimizer)
        return {way: compile_and_run(*way) for way in WAYS}


@pytest.mark.parametrize("way", WAYS[1:])
def test_micro_batches_equal_one_batch(compiled, way):
    """Compares all losses, gradient norm, gradient (the momentum of a first step) and new parameters."""
    for found, expected in zip(compiled[way].results, compiled[1, 1].results, strict=True):
        assert expected[1]["finite"]
        jax.tree.map(assert_close, found, expected)
    whole = compiled[1, 1].results
    assert [metrics["loss_bbox"] > 0 for _, metrics in whole] == [True, True, False]
    assert whole[0][1]["loss_bbox"] != whole[1][1]["loss_bbox"]


def assert_close(found, expected):
    """Checks that numbers agree within 1e-10 of the largest."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    scale = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * scale)


def test_micro_batches_take_less_memory(compiled):
    assert compiled[4, 1].temporary_bytes < compiled[1, 1].temporary_bytes / 2


def test_devices_do_not_exchange_images(compiled):
    """What they gather or send (in the search for the nearest anchors) is smaller than one image."""
    moved = r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)(?:-start)?\("
    sizes = [np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(moved, compiled[2, 8].text)]
    assert max(sizes, default=0) < SIZE[0] * SIZE[1] * 3
    assert "all-reduce" in compiled[2, 8].text


def test_the_first_scan_computes_only_what_the_normalizers_need(compiled, request):
    """It computes all of the network but the boxes for GFL, and nothing for ATSS."""
    parts = re.findall(r'op_name="[^"]*/DetectorNetwork/(\w+/\w+)[^"]*/conv', compiled[4, 1].text)
    if "loss_centerness" in compiled[1, 1].results[0][1]:
        assert parts == []
    else:
        assert {"head/class_tower_0", "head/class_logits", "pyramid/fpn_convs_1"} < set(parts)
        assert not [part for part in parts if "box" in part]
    assert not re.findall(r'op_name="[^"]*/DetectorNetwork/', compiled[1, 1].text)


def test_batch_norms_process_one_micro_batch_after_the_other():
    mesh = make_mesh(devices=jax.devices()[:1])
    experiment = change(CONFIG, optimizer=config.Optimizer(accumulate=2))
    model = build_detector(DETECTOR)
    state = random_state(model, make_optimizer(experiment.optimizer, lambda step: 0.1), np.float32)
    batch = make_batch(0, batch_size=4)

    def accumulated(params, batch_stats):
        (_, (_, new)), _ = loss_and_gradient(params, batch_stats, batch, model, experiment, mesh)
        return new

    def one_by_one(params, batch_stats):
        for part in (0, 1):
            rows = jax.tree.map(lambda x, part=part: x[part::2], batch)
            _, batch_stats = run_network(params, batch_stats, rows, model, experiment)
        return batch_stats

    given = (state.params, state.batch_stats)
    found, expected = (jax.jit(f)(*given) for f in (accumulated, one_by_one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, state.batch_stats)
    assert all(x > 0 for x in jax.tree.leaves(moved))


def test_the_rows_of_a_micro_batch_stay_on_their_device():
    mesh = make_mesh(devices=jax.devices()[:4])
    batch = put_batch(make_batch(0, batch_size=8), mesh)
    parts = jax.jit(micro_batches, static_argnums=(1, 2))(batch, 2, mesh)
    assert parts.images.shape == (2, 4, 64, 64, 3)
    np.testing.assert_array_equal(parts.indices, [[0, 2, 4, 6], [1, 3, 5, 7]])
    of_device = {shard.device: np.asarray(shard.data) for shard in batch.indices.addressable_shards}
    for shard in parts.indices.addressable_shards:
        np.testing.assert_array_equal(np.ravel(shard.data), of_device[shard.device])
