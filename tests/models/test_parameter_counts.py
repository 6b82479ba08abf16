"""Sizes of the networks, compared with published numbers and with the reference."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.configuration.config_files import load_config
from gfl_jax.interop.torch_names import CONSTANTS, to_torch
from gfl_jax.models.network import build_detector

# Blocks of torchvision's networks, their parameters without the last layer, and the channels of C3 to C5.
TORCHVISION = {
    "resnet18": (("basic", (2, 2, 2, 2)), 11_176_512, (128, 256, 512)),
    "resnet34": (("basic", (3, 4, 6, 3)), 21_284_672, (128, 256, 512)),
    "resnet50": (("bottleneck", (3, 4, 6, 3)), 23_508_032, (512, 1024, 2048)),
    "resnet101": (("bottleneck", (3, 4, 23, 3)), 42_500_160, (512, 1024, 2048)),
}
ROOT = Path(__file__).resolve().parents[2]
CONV = 256 * 256 * 9  # a 3x3 convolution of the pyramid and the head, without bias
HEAD = 8 * (CONV + 2 * 256) + (256 * 9 + 1) * (80 + 4 * 17) + 5  # two towers, two outputs, five scales


def pyramid_parameters(channels):
    return sum((c + 1) * 256 for c in channels) + 5 * (CONV + 256)


def shapes_of(detector):
    return jax.eval_shape(build_detector(detector).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_of_gfl_on_each_resnet(name):
    (block, stage_sizes), backbone, channels = TORCHVISION[name]
    detector = config.Detector(backbone=config.Backbone(block=block, stage_sizes=stage_sizes))
    params = shapes_of(detector)["params"]
    assert count(params["backbone"]) == backbone
    assert count(params["pyramid"]) == pyramid_parameters(channels)
    assert count(params["head"]) == HEAD


def test_the_default_detector_equals_gfl_of_the_reference(reference_dir):
    structure = json.loads((reference_dir / "gfl_structure.json").read_text())
    shapes = shapes_of(config.Detector())
    assert count(shapes["params"]) == structure["params"] == 32_440_537
    assert len(jax.tree.leaves(shapes["params"])) == structure["n_params"]
    parts = [count(shapes["params"][part]) for part in ("backbone", "pyramid", "head")]
    assert parts == [structure["by_part"][part] for part in ("backbone", "neck", "bbox_head")]


@pytest.mark.parametrize(
    ("name", "reference", "parameters"),
    [
        ("gfl_r50_fpn_1x_coco", "gfl", 32_440_537),
        ("atss_r50_fpn_1x_coco", "atss", 32_295_322),
        ("fcos_r50_fpn_1x_coco", "fcos", None),
        ("fcos_r50_fpn_tricks_1x_coco", "fcos_tricks", None),
        ("gfl_r101_dcn_c3-c5_fpn_ms2x_coco", "gfl_r101_dcn", 52_718_837),
        ("gfl_x101_32x4d_dcn_c4-c5_fpn_ms2x_coco", "gfl_x101_dcn", 53_467_053),
        ("gflv2_r50_fpn_1x_coco", "gflv2", 32_441_946),
    ],
)
def test_configs_have_the_names_and_shapes_of_the_reference(reference_dir, name, reference, parameters):
    structure = json.loads((reference_dir / f"{reference}_structure.json").read_text())
    detector = load_config(ROOT / "configs" / f"{name}.py").detector
    shapes = shapes_of(detector)
    assert count(shapes["params"]) == structure["params"]
    assert parameters in (None, structure["params"])
    ours = {}
    for collection in shapes.values():
        arrays = jax.tree.map(lambda x: np.empty(x.shape, np.int8), collection)
        ours |= {path: list(x.shape) for path, x in to_torch(arrays, detector).items()}
    theirs = {path: shape for path, shape in structure["shapes"].items() if not CONSTANTS.search(path)}
    assert ours == theirs
