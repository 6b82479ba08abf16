"""Whether the parts of a config fit together, told before any work is done for it."""

from collections.abc import Sequence
from itertools import pairwise

from gfl_jax.config import Config
from gfl_jax.detector_check import check_detector
from gfl_jax.errors import UserError


def check_experiment(config: Config) -> None:
    """Checks what the types and ranges of single fields cannot say.

    Raises:
      UserError: names the first field that does not fit the others.
    """
    check_detector(config.detector)
    crops, sides = config.crops, config.resize.train_short_sides
    for field, value, fits, what in (
        ("resize.train_short_sides", sides, _ascends(sides), "the smaller one first"),
        (
            "crops.scale",
            crops and crops.scale,
            crops is None or _ascends(crops.scale),
            "the smaller one first",
        ),
        (
            "schedule.milestones",
            config.schedule.milestones,
            _ascends(config.schedule.milestones),
            "in ascending order",
        ),
        (
            "inference.test_scales",
            config.inference.test_scales,
            len(config.inference.test_scales) > 0,
            "at least one scale, such as (1.0,)",
        ),
    ):
        if not fits:
            raise UserError(f"config.{field}={value!r}: must be {what}")


def _ascends(values: Sequence[float]) -> bool:
    return all(a <= b for a, b in pairwise(values))
