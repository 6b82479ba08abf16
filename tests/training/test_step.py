import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import CONFIG, DETECTOR, change, make_batch

from gfl_jax import config
from gfl_jax.data.loader import make_source, train_batches
from gfl_jax.data.plan import steps_per_epoch
from gfl_jax.detection_loss import loss_normalizers
from gfl_jax.errors import UserError
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import (
    LEAST_SHARDED,
    check_accumulate,
    check_batch_size,
    make_mesh,
    put_batch,
    put_everywhere,
    split_over_fsdp,
)
from gfl_jax.training import step as step_module
from gfl_jax.training.gradient import run_network
from gfl_jax.training.optimizer import make_optimizer, make_schedule
from gfl_jax.training.start import start_from
from gfl_jax.training.state import create_state, state_shapes
from gfl_jax.training.step import make_train_step


def make_step(config, devices, least=LEAST_SHARDED):
    """The train step on some devices, a state for it, and their mesh."""
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    model = build_detector(config.detector, config.precision)
    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, 12)
    optimizer = make_optimizer(config.optimizer, schedule, config.detector.backbone)
    state = create_state(model, optimizer, config.seed)
    state = jax.device_put(state, split_over_fsdp(state, mesh, least))
    return make_train_step(model, optimizer, schedule, config, mesh), state, mesh


def assert_close(found, expected):
    """Checks that numbers agree within 1e-6 of the largest of each array."""

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max(initial=0))

    jax.tree.map(check, found, expected)


def bytes_per_device(tree):
    """The bytes of all arrays on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_eight_devices_equal_one():
    """This also compares gradients: without decay, the momentum after a first step is the gradient."""
    exact = change(CONFIG, precision="float64", optimizer=config.Optimizer(weight_decay=0.0))
    batches = [make_batch(0), make_batch(1)]
    batches[1] = change(batches[1], box_mask=np.zeros_like(batches[1].box_mask))  # no box at all
    with jax.enable_x64(True):
        results = []
        for devices in (1, 8):
            step, state, mesh = make_step(exact, devices)
            for batch in batches:
                state, metrics = step(state, put_batch(batch, mesh))
                results.append(jax.device_get((state, metrics)))
                assert metrics["finite"]
            assert step._cache_size() == 1
    assert results[0][1]["loss_bbox"] > 0
    assert results[1][1]["loss_bbox"] == 0
    assert jax.tree.leaves(results[0][0].opt_state)[0].dtype == np.float64
    assert_close(results[2], results[0])
    assert_close(results[3], results[1])


def test_fsdp_equals_data_parallelism_with_less_memory(monkeypatch):
    """Parameters and optimizer state are sharded over devices. Losses and states equal those of replicas."""
    monkeypatch.setattr(step_module, "split_over_fsdp", partial(split_over_fsdp, least=1))
    exact = change(CONFIG, precision="float64", optimizer=config.Optimizer(kind="adamw", clip_norm=1.0))
    with jax.enable_x64(True):
        results = []
        for mesh in (config.Mesh(), config.Mesh(data=2, fsdp=4), config.Mesh(fsdp=8)):
            step, state, devices = make_step(change(exact, mesh=mesh), 8, least=1)
            for seed in (0, 1):
                state, metrics = step(state, put_batch(make_batch(seed), devices))
            results.append((jax.device_get((state, metrics)), bytes_per_device(state)))
            assert step._cache_size() == 1
    for found, _ in results[1:]:
        assert_close(found, results[0][0])
    whole, _, eighth = (size for _, size in results)
    assert eighth < 0.3 * whole  # many arrays of the tiny network have no axis that 8 divides


def test_each_of_eight_devices_holds_an_eighth_of_a_resnet_50():
    model = build_detector(config.Detector(), "float32")
    optimizer = make_optimizer(config.Optimizer(kind="adamw"), lambda _: 0.01, config.Detector().backbone)
    shapes = state_shapes(model, optimizer)
    mesh = make_mesh(config.Mesh(fsdp=8), jax.devices()[:8])
    shardings = split_over_fsdp(shapes, mesh)
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    sizes = [(np.prod(x.shape), np.prod(s.shard_shape(x.shape))) for x, s in pairs]
    whole, part = np.sum(sizes, axis=0)
    assert whole > 9e7
    assert 1 / 8 <= part / whole < 1.02 / 8


def test_the_error_about_a_wrong_mesh_names_fitting_ones():
    assert dict(make_mesh(config.Mesh(fsdp=2)).shape) == {"data": 4, "fsdp": 2}
    with pytest.raises(UserError, match=r"data=2 times fsdp=3 is not 8, .* fsdp to one of 1, 2, 4, 8"):
        make_mesh(config.Mesh(data=2, fsdp=3))
    with pytest.raises(UserError, match=r"data=1 times fsdp=16 is not 8"):
        make_mesh(config.Mesh(fsdp=16))


def test_an_epoch_of_mixed_shapes_compiles_once_per_bucket(tiny_config):
    source = make_source(tiny_config, "train")
    epoch = steps_per_epoch(source.sizes, tiny_config)
    step, state, mesh = make_step(tiny_config, 8)
    shapes = set()
    with train_batches(source, tiny_config) as batches:
        for _ in range(2 * epoch):
            batch = next(batches)
            shapes.add(batch.images.shape)
            state, _ = step(state, put_batch(batch, mesh))
    assert len(shapes) == 2
    assert step._cache_size() == 2
    assert int(state.step) == 2 * epoch


def test_a_non_finite_loss_does_not_change_the_state():
    step, state, mesh = make_step(CONFIG, 8)
    state.params["head"]["class_logits"]["bias"] = jnp.full(3, np.nan)
    before = jax.device_get(state)
    after, metrics = step(put_everywhere(state, mesh), put_batch(make_batch(0), mesh))
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)


def test_metrics_and_frozen_stages():
    backbone = change(DETECTOR.backbone, frozen_stages=1, norm="frozen")
    frozen = change(CONFIG, detector=change(DETECTOR, backbone=backbone))
    step, state, mesh = make_step(frozen, 1)
    before = jax.device_get(state)
    state, metrics = step(state, put_batch(make_batch(0), mesh))
    after = jax.device_get(state)
    losses = [value for name, value in metrics.items() if name.startswith("loss_")]
    np.testing.assert_allclose(metrics["loss"], np.sum(losses), rtol=1e-6)
    assert len(losses) == 3
    assert metrics["finite"]
    assert metrics["gradient_norm"] > 0
    np.testing.assert_allclose(metrics["learning_rate"], 0.05 * 0.001, rtol=1e-6)
    assert after.step == 1

    def moved(name):
        pairs = zip(*(jax.tree.leaves(s.params["backbone"][name]) for s in (before, after)), strict=True)
        return not all(np.array_equal(a, b) for a, b in pairs)

    assert [name for name in before.params["backbone"] if moved(name)] == ["layer2_0", "layer3_0"]
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, before.batch_stats)


def test_the_error_about_an_indivisible_batch_names_fitting_ones():
    mesh = make_mesh(devices=jax.devices()[:4])
    check_batch_size(8, mesh)
    message = r"config\.loader\.batch_size=6: .* 4 devices; .* that fit are 1, 2, 3, 6; .* such as 4 or 8"
    with pytest.raises(UserError, match=message):
        check_batch_size(6, mesh)
    with pytest.raises(UserError, match=r"config\.loader\.batch_size=3: .* such as 4 or 8"):
        check_batch_size(3, mesh)


def test_the_error_about_indivisible_micro_batches_names_fitting_ones():
    mesh = make_mesh(devices=jax.devices()[:4])
    check_accumulate(48, 3, mesh)
    for accumulate in (5, 0, -1, 24):
        with pytest.raises(UserError, match=rf"accumulate={accumulate}: .* 12 images .* 1, 2, 3, 4, 6, 12$"):
            check_accumulate(48, accumulate, mesh)


def test_only_the_network_computes_in_bf16():
    """Parameters, statistics, optimizer state, average, normalizers and losses are float32."""
    optimizer_config = config.Optimizer(accumulate=2, ema_decay=0.999)
    experiment = change(CONFIG, precision="bf16", optimizer=optimizer_config)
    mesh = make_mesh(devices=jax.devices()[:1])
    model = build_detector(DETECTOR, experiment.precision)
    optimizer = make_optimizer(optimizer_config, lambda step: 0.1)
    state, batch = state_shapes(model, optimizer, ema=True), make_batch(0)
    step = make_train_step(model, optimizer, lambda step: 0.1, experiment, mesh)
    new, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    floats = [x for x in jax.tree.leaves((new, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}

    def forward(state, batch):
        outputs, _ = run_network(state.params, state.batch_stats, batch, model, experiment)
        return outputs, loss_normalizers(outputs, batch, DETECTOR)

    outputs, normalizers = jax.eval_shape(forward, state, batch)
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    assert normalizers.box_weights.dtype == np.float32

    def convolutions(jitted):
        """The types of the two operands and of the result of each convolution."""
        types = r"\(tensor<\w+x(\w+)>, tensor<\w+x(\w+)>\) -> tensor<\w+x(\w+)>$"
        return re.findall(
            rf"stablehlo\.convolution\(.*{types}", jitted.lower(state, batch).as_text(), re.MULTILINE
        )

    assert set(convolutions(jax.jit(forward))) == {("bf16", "bf16", "bf16")}
    # In the backward pass, the gradients of kernels, which are sums over a batch, are float32.
    found = convolutions(step)
    assert len(found) > 20
    assert set(found) == {("bf16", "bf16", "bf16"), ("bf16", "bf16", "f32")}


def test_starting_from_variables_loads_what_fits(caplog):
    _, state, _ = make_step(CONFIG, 1)
    others = change(CONFIG, seed=1, detector=change(DETECTOR, num_classes=5))
    _, other, _ = make_step(others, 1)
    started = start_from(state, other.variables, "there")
    np.testing.assert_array_equal(
        started.params["backbone"]["conv1"]["kernel"], other.params["backbone"]["conv1"]["kernel"]
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        started.params["head"]["class_logits"],
        state.params["head"]["class_logits"],
    )
    assert "newly initialized: params/head/class_logits/bias, params/head/class_logits/kernel;" in caplog.text
    with pytest.raises(UserError, match="nothing in it fits"):
        start_from(state, {"params": {"head": {"other": np.zeros(3)}}}, "there")
