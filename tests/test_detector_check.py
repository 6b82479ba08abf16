import re

import pytest

from gfl_jax.config import Config
from gfl_jax.errors import UserError
from gfl_jax.models.detector import build_detector
from gfl_jax.overrides import override


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (8, 16)}, "strides=(8, 16): must be one for each of the 5 levels"),
        (
            {"assigner.kind": "fcos", "assigner.range_bounds": (64, 128)},
            "assigner.range_bounds=(64.0, 128.0): must be one for each of the 5 levels but the last",
        ),
        (
            {"assigner.anchor_ratios": (0.5, 1.0, 2.0)},
            "assigner.anchor_ratios=(0.5, 1.0, 2.0): must be one, with one octave part: atss has",
        ),
        ({"assigner.anchor_octave_parts": 3, "assigner.kind": "fcos"}, "assigner.anchor_ratios=(1.0,): must"),
        ({"classification.kind": "focal"}, "classification.kind='focal': must be 'quality_focal' or 'l2'"),
        ({"box.coding": "deltas"}, "box.coding='deltas': must be 'distances' with kind='general'"),
        ({"backbone.widths": (64, 128)}, "backbone.widths=(64, 128): must be one for each of the 4 stages"),
        ({"pyramid.num_laterals": 5}, "pyramid.num_laterals=5: must be from 1 to"),
        ({"head.num_groups": 48}, "head.num_groups=48: must be a divisor of head.channels"),
    ],
)
def test_parts_that_do_not_fit_are_told_before_anything_is_compiled(changes, message):
    changes = {f"detector.{name}": value for name, value in changes.items()}
    detector = override(Config(name="x"), changes).detector
    with pytest.raises(UserError, match=re.escape(f"config.detector.{message}")):
        build_detector(detector)
