"""Checks, before anything is compiled, whether the parts of a detector fit together."""

from gfl_jax.axes.assigner import assigner_requirements
from gfl_jax.axes.quality import has_soft_labels, reads_distributions
from gfl_jax.config import Detector
from gfl_jax.errors import UserError


def check_detector(detector: Detector) -> None:
    """Checks what the types of the fields do not cover.

    Raises:
      UserError: names the first field that does not fit the others.
    """
    assigner, box, pyramid, head = detector.assigner, detector.box, detector.pyramid, detector.head
    levels, backbone = pyramid.num_levels, detector.backbone
    stages = len(backbone.stage_sizes)
    middle = [width * backbone.group_width // 64 * backbone.groups for width in backbone.widths]
    deformable = [x for stage, x in enumerate(middle, 1) if stage in backbone.deform_stages]
    # Stage k has stride 2^(k + 1); each further level doubles it.
    strides = tuple(2 ** (stages - pyramid.num_laterals + 2 + level) for level in range(levels))
    for field, value, fits, wanted in (
        (
            "strides",
            detector.strides,
            len(detector.strides) == levels,
            f"one value for each of the {levels} levels",
        ),
        (
            "backbone.stage_sizes",
            backbone.stage_sizes,
            1 <= stages <= 4,
            "1 to 4 stages, of strides 4 to 32",
        ),
        (
            "strides",
            detector.strides,
            detector.strides == strides or pyramid.num_laterals > stages,
            f"{strides}, the strides of {stages} stages and {pyramid.num_laterals} laterals",
        ),
        (
            "backbone.block",
            backbone.block,
            backbone.block == "bottleneck" or (backbone.groups == 1 and not backbone.deform_stages),
            "'bottleneck' with groups or deform_stages",
        ),
        (
            "backbone.group_width",
            backbone.group_width,
            backbone.block == "basic" or min(middle, default=1) >= backbone.groups,
            f"at least {-(-64 // min(backbone.widths, default=64))}, to give each group a channel",
        ),
        (
            "backbone.deform_groups",
            backbone.deform_groups,
            all(x % backbone.deform_groups == 0 for x in deformable),
            f"a divisor of the channels of all deformable convolutions, which are {deformable}",
        ),
        (
            "backbone.deform_stages",
            backbone.deform_stages,
            max(backbone.deform_stages, default=1) <= stages,
            f"stages from 1 to {stages}",
        ),
        (
            "backbone.frozen_stages",
            backbone.frozen_stages,
            backbone.frozen_stages <= stages,
            f"at most {stages}, the number of stages",
        ),
        *(
            (f"assigner.{field}", getattr(assigner, field), fits, wanted)
            for field, fits, wanted in assigner_requirements(assigner, levels)
        ),
        (
            "classification.kind",
            detector.classification.kind,
            detector.classification.kind != "focal" or not has_soft_labels(detector.quality),
            f"other than 'focal', because quality={detector.quality!r} has soft labels",
        ),
        (
            "quality",
            detector.quality,
            box.kind == "general" or not reads_distributions(detector.quality),
            f"other than 'distribution', because box.kind={box.kind!r} has no distributions",
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
            f"one value for each of the {len(detector.backbone.stage_sizes)} stages",
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
            raise UserError(f"config.detector.{field}={value!r}: must be {wanted}")
