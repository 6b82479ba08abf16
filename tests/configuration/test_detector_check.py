import re

import pytest

from gfl_jax.config import Config
from gfl_jax.configuration.overrides import override
from gfl_jax.errors import UserError
from gfl_jax.models.network import build_detector


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (8, 16)}, "strides=(8, 16): must be one value for each of the 5 levels"),
        (
            {"strides": (4, 8, 16, 32, 64)},
            "strides=(4, 8, 16, 32, 64): must be (8, 16, 32, 64, 128), the strides of 4",
        ),
        (
            {"pyramid.num_laterals": 4},
            "strides=(8, 16, 32, 64, 128): must be (4, 8, 16, 32, 64), the strides of 4 stages",
        ),
        (
            {"backbone.stage_sizes": (1,) * 5, "backbone.widths": (8,) * 5},
            "backbone.stage_sizes=(1, 1, 1, 1, 1)",
        ),
        (
            {"backbone.block": "basic", "backbone.groups": 2},
            "backbone.block='basic': must be 'bottleneck' with",
        ),
        (
            {"backbone.widths": (4, 8, 16, 32), "backbone.group_width": 8},
            "backbone.group_width=8: must be at least 16, to give each group a channel",
        ),
        (
            {"backbone.deform_stages": (1, 4), "backbone.deform_groups": 128},
            "backbone.deform_groups=128: must be a divisor of the channels of all deformable convolutions, "
            "which are [64, 512]",
        ),
        ({"backbone.deform_stages": (5,)}, "backbone.deform_stages=(5,): must be stages from 1 to 4"),
        (
            {"assigner.range_bounds": (512, 256, 128, 64)},
            "assigner.range_bounds=(512.0, 256.0,",
        ),
        ({"assigner.negative_iou": 0.9}, "assigner.negative_iou=0.9: must be at most positive_iou=0.5"),
        (
            {"assigner.kind": "max_iou", "assigner.anchor_ratios": ()},
            "assigner.anchor_ratios=(): must be",
        ),
        ({"backbone.frozen_stages": 5}, "backbone.frozen_stages=5: must be at most 4, the number of stages"),
        (
            {"assigner.topk": 1, "pyramid.num_levels": 1, "pyramid.num_laterals": 1, "strides": (32,)},
            "assigner.topk=1: must be at least 2 with one level",
        ),
        (
            {"assigner.kind": "fcos", "assigner.range_bounds": (64, 128)},
            "assigner.range_bounds=(64.0, 128.0): must be one value for each of the 5 levels except the last",
        ),
        (
            {"assigner.anchor_ratios": (0.5, 1.0, 2.0)},
            "assigner.anchor_ratios=(0.5, 1.0, 2.0): must be one ratio, with anchor_octave_parts=1: atss has",
        ),
        ({"assigner.anchor_octave_parts": 3, "assigner.kind": "fcos"}, "assigner.anchor_ratios=(1.0,): must"),
        (
            {"classification.kind": "focal"},
            "classification.kind='focal': must be other than 'focal', because",
        ),
        (
            {"quality": "distribution", "box.kind": "dirac"},
            "quality='distribution': must be other than 'distribution', because",
        ),
        ({"box.coding": "deltas"}, "box.coding='deltas': must be 'distances' with kind='general'"),
        (
            {"backbone.widths": (64, 128)},
            "backbone.widths=(64, 128): must be one value for each of the 4 stages",
        ),
        ({"pyramid.num_laterals": 5}, "pyramid.num_laterals=5: must be from 1 to"),
        ({"head.num_groups": 48}, "head.num_groups=48: must be a divisor of head.channels"),
    ],
)
def test_parts_that_do_not_fit_are_errors_before_anything_is_compiled(changes, message):
    changes = {f"detector.{name}": value for name, value in changes.items()}
    detector = override(Config(name="x"), changes).detector
    with pytest.raises(UserError, match=re.escape(f"config.detector.{message}")):
        build_detector(detector)
