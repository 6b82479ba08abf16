import json
import re

import pytest

from gfl_jax.interop.foreign_names import mmdetection_name


@pytest.mark.parametrize(
    ("theirs", "mmdetections"),
    [
        # torchvision
        ("conv1.weight", "backbone.conv1.weight"),
        ("bn1.running_var", "backbone.bn1.running_var"),
        ("layer3.5.conv2.weight", "backbone.layer3.5.conv2.weight"),
        ("layer1.0.downsample.0.weight", "backbone.layer1.0.downsample.0.weight"),
        ("layer1.0.downsample.1.num_batches_tracked", "backbone.layer1.0.downsample.1.num_batches_tracked"),
        ("fc.weight", "fc.weight"),
        # mmpretrain
        ("backbone.layer4.2.bn3.bias", "backbone.layer4.2.bn3.bias"),
        ("head.fc.bias", "head.fc.bias"),
        # detectron2: a backbone, and the backbone of a detector
        ("stem.conv1.weight", "backbone.conv1.weight"),
        ("stem.conv1.norm.running_mean", "backbone.bn1.running_mean"),
        ("res2.0.shortcut.weight", "backbone.layer1.0.downsample.0.weight"),
        ("res2.0.shortcut.norm.weight", "backbone.layer1.0.downsample.1.weight"),
        ("res5.2.conv3.norm.bias", "backbone.layer4.2.bn3.bias"),
        ("res3.1.conv1.weight", "backbone.layer2.1.conv1.weight"),
        ("res4.22.conv2_offset.weight", "backbone.layer3.22.conv2.conv_offset.weight"),
        ("backbone.bottom_up.stem.conv1.weight", "backbone.conv1.weight"),
        ("backbone.bottom_up.res4.0.conv2.norm.weight", "backbone.layer3.0.bn2.weight"),
        ("backbone.fpn_lateral3.weight", "backbone.fpn_lateral3.weight"),
        # mmdetection 1.x, and the official GFL repository
        ("backbone.layer2.0.conv2_offset.bias", "backbone.layer2.0.conv2.conv_offset.bias"),
        ("bbox_head.fcos_cls.weight", "bbox_head.conv_cls.weight"),
        ("bbox_head.fcos_reg.bias", "bbox_head.conv_reg.bias"),
        ("bbox_head.fcos_centerness.weight", "bbox_head.conv_centerness.weight"),
        ("bbox_head.distribution_project.project", "bbox_head.integral.project"),
        # parallel training
        ("module.bbox_head.gfl_cls.weight", "bbox_head.gfl_cls.weight"),
        ("module.layer1.0.bn1.weight", "backbone.layer1.0.bn1.weight"),
    ],
)
def test_names_of_other_projects(theirs, mmdetections):
    assert mmdetection_name(theirs) == mmdetections


@pytest.mark.parametrize(
    "reference", ["gfl", "atss", "fcos", "fcos_tricks", "gfl_r101_dcn", "gfl_x101_dcn", "gflv2"]
)
def test_names_of_mmdetection_stay_and_its_backbones_need_no_prefix(reference_dir, reference):
    names = json.loads((reference_dir / f"{reference}_structure.json").read_text())["shapes"]
    for name in names:
        assert mmdetection_name(name) == name
        if name.startswith("backbone."):
            assert mmdetection_name(name.removeprefix("backbone.")) == name


def test_a_whole_backbone_with_names_of_detectron2(reference_dir):
    """Names of mmdetection are converted to those of detectron2, and must be converted back correctly."""
    names = json.loads((reference_dir / "gfl_r101_dcn_structure.json").read_text())["shapes"]
    names = [name for name in names if name.startswith("backbone.")]
    theirs = []
    for name in names:
        name = name.removeprefix("backbone.")
        name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
        name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        name = re.sub(r"bn(\d)\.", r"conv\1.norm.", name).replace("conv2.conv_offset.", "conv2_offset.")
        theirs.append(name)
    assert len(set(theirs)) == len(names)
    assert [mmdetection_name(name) for name in theirs] == names
