"""Starting from files of PyTorch."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.errors import UserError
from gfl_jax.interop.foreign import detector_shapes
from gfl_jax.interop.state_dicts import write_state_dict
from gfl_jax.interop.torch_names import whole_state_dict
from gfl_jax.training.start import start_from_file
from gfl_jax.training.state import TrainState


def random_variables(detector, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), detector_shapes(detector))


@pytest.fixture(scope="module")
def state(small_detector):
    arrays = jax.tree.map(jnp.asarray, random_variables(small_detector, 0))
    return TrainState(step=jnp.zeros((), jnp.int32), opt_state=(), **arrays)


@pytest.fixture
def lines(caplog):
    """The lines that were logged, from warnings on."""
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_whole_detector_is_taken_over_silently(state, small_detector, tmp_path, lines):
    others = random_variables(small_detector, 1)
    path = tmp_path / "x.safetensors"
    write_state_dict(path, whole_state_dict(others, small_detector))
    same(start_from_file(state, str(path), small_detector).variables, others)
    assert lines() == []


def test_other_classes_keep_all_but_the_classifier_and_one_line_says_so(
    state, small_detector, tmp_path, lines
):
    five = dataclasses.replace(small_detector, num_classes=5)
    others = random_variables(five, 1)
    path = tmp_path / "x.safetensors"
    write_state_dict(path, whole_state_dict(others, five))
    started = start_from_file(state, str(path), small_detector)
    same(started.params["head"].pop("class_logits"), state.params["head"]["class_logits"])
    del others["params"]["head"]["class_logits"]
    same(started.variables, others)
    count = len(jax.tree.leaves(state.variables))
    assert lines() == [
        f"{path}: {count - 2} of {count} arrays taken; start anew: params/head/class_logits/bias, "
        "params/head/class_logits/kernel; without a place: none"
    ]


def test_a_backbone_of_torchvision(state, small_detector, tmp_path, lines):
    others = random_variables(small_detector, 1)
    whole = whole_state_dict(others, small_detector)
    bare = {name.removeprefix("backbone."): x for name, x in whole.items() if name.startswith("backbone.")}
    path = tmp_path / "x.safetensors"
    write_state_dict(path, bare | {"fc.weight": np.zeros((10, 8)), "fc.bias": np.zeros(10)})
    started = start_from_file(state, str(path), small_detector)
    same(started.params["backbone"], others["params"]["backbone"])
    same(started.batch_stats, others["batch_stats"])
    same(started.params["pyramid"], state.params["pyramid"])
    same(started.params["head"], state.params["head"])
    (line,) = lines()
    assert "start anew: params/head/" in line
    assert line.endswith("without a place: fc.bias, fc.weight")


def test_float64_weights_become_the_networks(state, small_detector, tmp_path):
    others = random_variables(small_detector, 1)
    path = tmp_path / "x.safetensors"
    doubled = whole_state_dict(jax.tree.map(np.float64, others), small_detector)
    write_state_dict(path, doubled)
    assert doubled["backbone.conv1.weight"].dtype == np.float64
    started = start_from_file(state, str(path), small_detector)
    assert {x.dtype for x in jax.tree.leaves(started.variables)} == {np.dtype(np.float32)}
    same(started.variables, others)


def test_a_file_in_which_nothing_fits(state, small_detector, tmp_path):
    path = tmp_path / "x.safetensors"
    write_state_dict(path, {"encoder.weight": np.zeros(3)})
    with pytest.raises(UserError, match="nothing in it fits this network"):
        start_from_file(state, str(path), small_detector)
    with pytest.raises(UserError, match="there is no such file"):
        start_from_file(state, str(tmp_path / "y.pth"), small_detector)
