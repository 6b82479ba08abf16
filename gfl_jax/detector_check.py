"""Whether the parts of a detector fit together, told before anything is compiled."""

from gfl_jax.axes.assigner import num_anchors
from gfl_jax.config import Detector
from gfl_jax.errors import UserError


def check_detector(detector: Detector) -> None:
    """Checks what the types of the fields cannot say.

    Raises:
      UserError: names the first field that does not fit the others.
    """
    assigner, box, pyramid, head = detector.assigner, detector.box, detector.pyramid, detector.head
    levels = pyramid.num_levels
    for field, value, fits, what in (
        (
            "strides",
            detector.strides,
            len(detector.strides) == levels,
            f"one for each of the {levels} levels",
        ),
        (
            "assigner.range_bounds",
            assigner.range_bounds,
            assigner.kind != "fcos" or len(assigner.range_bounds) == levels - 1,
            f"one for each of the {levels} levels but the last",
        ),
        (
            "assigner.anchor_ratios",
            assigner.anchor_ratios,
            assigner.kind == "max_iou" or num_anchors(assigner) == 1,
            f"one, with one octave part: {assigner.kind} has a single anchor at a location",
        ),
        (
            "classification.kind",
            detector.classification.kind,
            detector.classification.kind != "focal" or detector.quality != "joint",
            "'quality_focal' or 'l2' with quality='joint', whose labels are soft",
        ),
        (
            "box.coding",
            box.coding,
            box.coding == "distances" or box.kind == "dirac",
            f"'distances' with kind={box.kind!r}",
        ),
        (
            "backbone.widths",
            detector.backbone.widths,
            len(detector.backbone.widths) == len(detector.backbone.stage_sizes),
            f"one for each of the {len(detector.backbone.stage_sizes)} stages",
        ),
        (
            "pyramid.num_laterals",
            pyramid.num_laterals,
            1 <= pyramid.num_laterals <= min(len(detector.backbone.stage_sizes), levels),
            "from 1 to the number of backbone stages and of levels",
        ),
        (
            "head.num_groups",
            head.num_groups,
            head.channels % head.num_groups == 0,
            "a divisor of head.channels",
        ),
    ):
        if not fits:
            raise UserError(f"config.detector.{field}={value!r}: must be {what}")
