"""Checks, before any work is done, whether the parts of a config fit together."""

from collections.abc import Sequence
from itertools import pairwise

from gfl_jax.config import Config
from gfl_jax.configuration.detector_check import check_detector
from gfl_jax.errors import UserError


def check_experiment(config: Config) -> None:
    """Checks what the types and ranges of single fields do not cover.

    Raises:
      UserError: names the first field that does not fit the others.
    """
    check_detector(config.detector)
    crops, sides, buckets = config.crops, config.resize.train_short_sides or (), config.loader.buckets or ()
    divisor = 2 ** (len(config.detector.backbone.stage_sizes) + 1)  # the stride of the last stage
    for field, value, fits, wanted in (
        ("resize.train_short_sides", sides, _ascends(sides), "in ascending order"),
        (
            "crops.scale",
            crops and crops.scale,
            crops is None or _ascends(crops.scale),
            "in ascending order",
        ),
        (
            "schedule.milestones",
            config.schedule.milestones,
            _ascends(config.schedule.milestones),
            "in ascending order",
        ),
        (
            "crops.size",
            crops and crops.size,
            crops is None or crops.size % divisor == 0,
            f"a multiple of {divisor}, the stride of the backbone",
        ),
        (
            "loader.buckets",
            buckets,
            all(side % divisor == 0 for bucket in buckets for side in bucket),
            f"(height, width) in multiples of {divisor}, the stride of the backbone",
        ),
    ):
        if not fits:
            raise UserError(f"config.{field}={value!r}: must be {wanted}")


def _ascends(values: Sequence[float]) -> bool:
    return all(a <= b for a, b in pairwise(values))
