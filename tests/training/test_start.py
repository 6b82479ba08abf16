"""Tests of starting from PyTorch files."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax.comparison.rows import Row
from gfl_jax.comparison.runs import compare_rows
from gfl_jax.config import Config
from gfl_jax.configuration.config_files import load_config
from gfl_jax.configuration.overrides import parse_overrides
from gfl_jax.data.categories import Categories
from gfl_jax.errors import UserError
from gfl_jax.interop.foreign import detector_shapes
from gfl_jax.interop.state_dicts import write_state_dict
from gfl_jax.interop.torch_names import whole_state_dict
from gfl_jax.training.loop import train
from gfl_jax.training.start import check_start, match_classifier, start_from_file
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
    """A function that returns the logged lines of level warning and above."""
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_whole_detector_is_loaded_without_warnings(state, small_detector, tmp_path, lines):
    others = random_variables(small_detector, 1)
    path = tmp_path / "x.safetensors"
    write_state_dict(path, whole_state_dict(others, small_detector))
    same(start_from_file(state, str(path), small_detector).variables, others)
    assert lines() == []


def test_with_other_classes_all_but_the_classifier_is_loaded_with_one_warning(
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
        f"{path}: loaded {count - 2} of {count} arrays; newly initialized: params/head/class_logits/bias, "
        "params/head/class_logits/kernel; unused: none"
    ]


def test_a_torchvision_backbone_is_loaded(state, small_detector, tmp_path, lines):
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
    assert "newly initialized: params/head/" in line
    assert line.endswith("unused: fc.bias, fc.weight")


def test_float64_weights_are_cast_to_float32(state, small_detector, tmp_path):
    others = random_variables(small_detector, 1)
    path = tmp_path / "x.safetensors"
    doubled = whole_state_dict(jax.tree.map(np.float64, others), small_detector)
    write_state_dict(path, doubled)
    assert doubled["backbone.conv1.weight"].dtype == np.float64
    started = start_from_file(state, str(path), small_detector)
    assert {x.dtype for x in jax.tree.leaves(started.variables)} == {np.dtype(np.float32)}
    same(started.variables, others)


def test_a_file_in_which_nothing_fits_is_an_error(state, small_detector, tmp_path):
    path = tmp_path / "x.safetensors"
    write_state_dict(path, {"encoder.weight": np.zeros(3)})
    with pytest.raises(UserError, match="nothing in it fits this network"):
        start_from_file(state, str(path), small_detector)
    with pytest.raises(UserError, match="there is no such file"):
        start_from_file(state, str(tmp_path / "y.pth"), small_detector)


def test_classes_of_other_names_are_learned_anew_and_told(state, lines):
    theirs, ours = Categories(("Red", "Green", "Blue"), (1, 2, 3)), Categories(("red", "green"), (1, 2))
    variables = match_classifier(state.variables, state.variables, ours, theirs, "model")
    assert "class_logits" not in variables["params"]["head"]
    (line,) = lines()
    assert line.startswith("model: none of its classes ('Red', 'Green', 'Blue') has the name of a class of")
    assert line.endswith("so class scores are learned anew; names are case-sensitive")


COCO = Path(__file__).parents[2] / "configs" / "gfl_r50_fpn_1x_coco.py"
REMEDY = "--config.detector.backbone.frozen_stages=0 --config.detector.backbone.norm=batch"


def complaint(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def freezing(detector, **changes):
    """A config of the detector with a changed backbone."""
    backbone = dataclasses.replace(detector.backbone, **changes)
    return Config("small", detector=dataclasses.replace(detector, backbone=backbone))


def remedied(config, message):
    """The config with the changes that the message recommends for training everything."""
    assert REMEDY in message
    return parse_overrides(config, dict(word.removeprefix("--config.").split("=") for word in REMEDY.split()))


def test_a_coco_config_without_weights_is_refused_at_the_start(tmp_path):
    config = dataclasses.replace(load_config(COCO), init_from="")
    message = complaint(train, config, tmp_path / "run")
    assert message.startswith("config.init_from='': frozen_stages=1 and norm=frozen")
    assert "--config.init_from=" in message
    assert not (tmp_path / "run").exists()
    check_start(remedied(config, message), tmp_path / "run")


@pytest.mark.parametrize(
    "changes", [{"frozen_stages": 1}, {"norm": "frozen"}, {"frozen_stages": 3, "norm": "frozen"}]
)
def test_frozen_parts_need_a_file(small_detector, tmp_path, changes):
    config = freezing(small_detector, **changes)
    check_start(remedied(config, complaint(check_start, config, tmp_path)), tmp_path)


def test_untrained_norms_need_no_file(small_detector, tmp_path):
    check_start(freezing(small_detector, train_norm=False), tmp_path)


def test_a_run_that_has_begun_needs_no_file(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    check_start(load_config(COCO), tmp_path)


def test_a_comparison_checks_all_rows_before_the_first_run(small_detector, tmp_path):
    configs = {
        "good": Config("small", detector=small_detector),
        "bad": freezing(small_detector, frozen_stages=1),
    }
    rows = [Row(name, "x", {}) for name in configs]
    message = complaint(
        compare_rows, rows, lambda row: configs[row.label], 1, tmp_path / "compared", pytest.fail
    )
    assert "would keep random values" in message
    assert not (tmp_path / "compared").exists()


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        ("backbone.conv1.weight", "params/backbone/conv1/kernel"),
        ("backbone.layer1.0.conv2.weight", "params/backbone/layer1_0/conv2/kernel"),
        ("backbone.layer3.0.bn2.running_var", "batch_stats/backbone/layer3_0/bn2/var"),
        ("neck.", None),  # trained anyway
    ],
)
def test_a_file_must_have_all_frozen_parts(small_detector, tmp_path, dropped, named):
    whole = whole_state_dict(random_variables(small_detector, 1), small_detector)
    path = tmp_path / "x.safetensors"
    kept = {name: x for name, x in whole.items() if not name.startswith(dropped)}
    assert len(kept) < len(whole)
    write_state_dict(path, kept)
    config = freezing(small_detector, frozen_stages=1, norm="frozen")
    config = dataclasses.replace(config, init_from=str(path))
    if named is None:
        check_start(config, tmp_path / "run")
        return
    message = complaint(check_start, config, tmp_path / "run")
    assert message.startswith(f"config.init_from={path}: has no values of the right shape for {named}; ")
    check_start(remedied(config, message), tmp_path / "run")


def test_frozen_weights_of_another_width_do_not_fit(small_detector, tmp_path):
    path = tmp_path / "x.safetensors"
    write_state_dict(path, whole_state_dict(random_variables(small_detector, 1), small_detector))
    config = freezing(small_detector, frozen_stages=1, widths=(8, 8, 8))
    config = dataclasses.replace(config, init_from=str(path))
    assert "params/backbone/conv1/kernel" in complaint(check_start, config, tmp_path / "run")
