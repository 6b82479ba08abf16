import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gfl_jax import config
from gfl_jax.configuration.config_files import load_config
from gfl_jax.errors import UserError
from gfl_jax.interop.foreign import detector_shapes
from gfl_jax.interop.torch_names import from_torch, torch_name, whole_state_dict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def structure(reference_dir):
    """Names and shapes of all entries of the reference's state dict."""
    return json.loads((reference_dir / "gfl_structure.json").read_text())["shapes"]


@pytest.fixture(scope="module")
def shapes():
    """The shapes of the variables of the same detector."""
    return detector_shapes(config.Detector())


@pytest.fixture
def state_dict(structure):
    """A state dict of arrays with a different constant for each entry; tests replace some entries."""
    return {name: np.broadcast_to(np.float32(i), shape) for i, (name, shape) in enumerate(structure.items())}


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("gfl_r50_fpn_1x_coco", "gfl"),
        ("atss_r50_fpn_1x_coco", "atss"),
        ("fcos_r50_fpn_1x_coco", "fcos"),
        ("fcos_r50_fpn_tricks_1x_coco", "fcos_tricks"),
        ("gfl_r101_dcn_c3-c5_fpn_ms2x_coco", "gfl_r101_dcn"),
        ("gfl_x101_32x4d_dcn_c4-c5_fpn_ms2x_coco", "gfl_x101_dcn"),
        ("gflv2_r50_fpn_1x_coco", "gflv2"),
    ],
)
def test_every_entry_is_converted_there_and_back(name, reference, reference_dir):
    structure = json.loads((reference_dir / f"{reference}_structure.json").read_text())["shapes"]
    detector = load_config(ROOT / "configs" / f"{name}.py").detector
    shapes = detector_shapes(detector)
    rng = np.random.default_rng(0)
    state_dict = {name: rng.random(shape, np.float32) for name, shape in structure.items()}
    for name in state_dict:  # the values of mmdetection before the first batch
        if name.endswith("num_batches_tracked"):
            state_dict[name] = np.array(0)
        elif name.endswith("integral.project"):
            state_dict[name] = np.linspace(0, 16, 17, dtype=np.float32)
    variables = from_torch(state_dict, shapes, detector)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, shapes)
    back = whole_state_dict(variables, detector)
    assert set(back) == set(structure)
    for name, x in state_dict.items():
        np.testing.assert_array_equal(back[name], x, strict=True)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("params/backbone/conv1/kernel", "backbone.conv1.weight"),
        ("params/backbone/bn1/scale", "backbone.bn1.weight"),
        ("params/backbone/layer3_5/conv2/kernel", "backbone.layer3.5.conv2.weight"),
        ("params/backbone/layer4_0/downsample_conv/kernel", "backbone.layer4.0.downsample.0.weight"),
        ("params/backbone/layer4_0/downsample_bn/bias", "backbone.layer4.0.downsample.1.bias"),
        ("batch_stats/backbone/layer1_2/bn3/mean", "backbone.layer1.2.bn3.running_mean"),
        ("batch_stats/backbone/layer1_0/downsample_bn/var", "backbone.layer1.0.downsample.1.running_var"),
        ("params/pyramid/lateral_convs_2/kernel", "neck.lateral_convs.2.conv.weight"),
        ("params/pyramid/fpn_convs_4/bias", "neck.fpn_convs.4.conv.bias"),
        ("params/head/class_tower_3/kernel", "bbox_head.cls_convs.3.conv.weight"),
        ("params/head/class_tower_0_gn/scale", "bbox_head.cls_convs.0.gn.weight"),
        ("params/head/box_tower_1/kernel", "bbox_head.reg_convs.1.conv.weight"),
        ("params/head/box_tower_1_gn/bias", "bbox_head.reg_convs.1.gn.bias"),
        ("params/head/class_logits/bias", "bbox_head.gfl_cls.bias"),
        ("params/head/box/kernel", "bbox_head.gfl_reg.weight"),
        ("params/head/scale_4", "bbox_head.scales.4.scale"),
    ],
)
def test_names_and_layouts(ours, theirs, structure, state_dict, shapes):
    assert torch_name(ours.split("/", 1)[1], config.Detector()) == theirs
    shape = structure[theirs]
    numbers = np.random.default_rng(1).standard_normal(shape)
    found = flatten_dict(from_torch(state_dict | {theirs: numbers}, shapes, config.Detector()), sep="/")[ours]
    assert found.shape == (tuple(shape[2:] + shape[1::-1]) if len(shape) == 4 else tuple(shape))
    for index in np.ndindex(*(min(size, 2) for size in shape)):
        if len(shape) == 4:
            output, input_, row, column = index
            assert found[row, column, input_, output] == numbers[index]
        else:
            assert found[index] == numbers[index]


def refusal(state_dict, shapes):
    with pytest.raises(UserError) as caught:
        from_torch(state_dict, shapes, config.Detector())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_entries_are_errors_that_name_them(state_dict, shapes):
    del state_dict["neck.fpn_convs.3.conv.bias"]
    message = refusal(state_dict, shapes)
    assert message.startswith("1 entries are missing in the checkpoint: neck.fpn_convs.3.conv.bias;")


def test_entries_that_are_not_in_the_detector_are_errors_that_name_them(state_dict, shapes):
    message = refusal(state_dict | {"bbox_head.reg_conf.0.weight": np.zeros(3)}, shapes)
    assert "in the checkpoint but not in this detector: bbox_head.reg_conf.0.weight;" in message


def test_entries_with_the_wrong_shape_are_errors_that_name_them(state_dict, shapes):
    message = refusal(state_dict | {"bbox_head.gfl_cls.bias": np.zeros(20)}, shapes)
    assert "bbox_head.gfl_cls.bias (20,)" in message
    assert "(80,)" in message


def test_only_the_first_of_many_entries_are_named(state_dict, shapes):
    without_head = {name: x for name, x in state_dict.items() if not name.startswith("bbox_head.")}
    message = refusal(without_head, shapes)
    assert message.startswith("33 entries are missing in the checkpoint: bbox_head.cls_convs.0.conv.weight, ")
    assert ", ...;" in message
