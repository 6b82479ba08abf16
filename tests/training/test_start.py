"""Starting from files of PyTorch."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from gfl_jax.config import Config
from gfl_jax.config_files import load_config
from gfl_jax.errors import UserError
from gfl_jax.interop.foreign import detector_shapes
from gfl_jax.interop.state_dicts import write_state_dict
from gfl_jax.interop.torch_names import whole_state_dict
from gfl_jax.overrides import override
from gfl_jax.training.start import require_weights_for_frozen_parts, start_from, start_from_file
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frozen_stages": 1}, "backbone's frozen_stages=1 parts"),
        ({"norm": "frozen"}, "backbone's norm='frozen' parts"),
        ({"train_norm": False}, "backbone's train_norm=False parts"),
        ({"norm": "frozen", "frozen_stages": 2}, "backbone's frozen_stages=2, norm='frozen' parts"),
    ],
)
def test_what_is_never_trained_must_come_from_a_file(small_detector, changes, words):
    def check(**fields):
        backbone = dataclasses.replace(small_detector.backbone, **changes)
        detector = dataclasses.replace(small_detector, backbone=backbone)
        require_weights_for_frozen_parts(Config(name="t", detector=detector, **fields))

    with pytest.raises(UserError, match=r"config\.init_from: names no weights") as caught:
        check()
    assert words in str(caught.value)
    assert "--config.detector.backbone.frozen_stages=0 --config.detector.backbone.norm=batch" in str(
        caught.value
    )
    check(init_from="resnet50.pth")
    require_weights_for_frozen_parts(Config(name="t", detector=small_detector))  # it trains everything


def test_a_coco_config_without_weights_is_refused_and_can_be_trained_from_scratch():
    path = Path(__file__).resolve().parents[2] / "configs" / "gfl_r50_fpn_1x_coco.py"
    with pytest.raises(UserError, match=r"frozen_stages=1, norm='frozen'"):
        require_weights_for_frozen_parts(load_config(path))
    scratch = {"detector.backbone.frozen_stages": 0, "detector.backbone.norm": "batch"}
    require_weights_for_frozen_parts(override(load_config(path), scratch))


@pytest.mark.parametrize(
    ("changes", "left_out", "words"),
    [
        ({"frozen_stages": 1}, "params/backbone/conv1", "lacks 1 arrays .*: params/backbone/conv1/kernel"),
        ({"frozen_stages": 1}, "params/backbone/layer1_0", "lacks .*: params/backbone/layer1_0/"),
        ({"norm": "frozen"}, "batch_stats", "lacks .* arrays .*: batch_stats/backbone/"),
        ({"train_norm": False}, "params/backbone/bn1", "lacks 2 arrays .*: params/backbone/bn1/"),
    ],
)
def test_a_file_must_hold_all_that_is_frozen(state, small_detector, changes, left_out, words):
    backbone = dataclasses.replace(small_detector.backbone, **changes)
    others = flatten_dict(random_variables(small_detector, 1), sep="/")
    part = {path: x for path, x in others.items() if not path.startswith(left_out)}
    with pytest.raises(UserError, match=rf"config\.init_from=x: {words}"):
        start_from(state, unflatten_dict(part, sep="/"), "x", backbone=backbone)
    without_head = {path: x for path, x in others.items() if "/head/" not in path}
    start_from(state, unflatten_dict(without_head, sep="/"), "x", backbone=backbone)


def test_a_file_in_which_nothing_fits(state, small_detector, tmp_path):
    path = tmp_path / "x.safetensors"
    write_state_dict(path, {"encoder.weight": np.zeros(3)})
    with pytest.raises(UserError, match="nothing in it fits this network"):
        start_from_file(state, str(path), small_detector)
    with pytest.raises(UserError, match="there is no such file"):
        start_from_file(state, str(tmp_path / "y.pth"), small_detector)
