"""A trained detector, the teacher, from which a student learns its box sides (localization distillation)."""

from typing import Any, NamedTuple

from jax.sharding import Mesh
from jaxtyping import Array, Float

from gfl_jax import config
from gfl_jax.axes.assigner import location_offset, num_anchors
from gfl_jax.axes.box_representation import num_parameters
from gfl_jax.errors import UserError
from gfl_jax.models.network import DetectorNetwork, apply_network, build_detector
from gfl_jax.models.preprocess import normalize_images
from gfl_jax.parallel.mesh import tpu_chips
from gfl_jax.structures import Images


class Teacher(NamedTuple):
    """The network of the teacher, without its weights, and its image normalization."""

    model: DetectorNetwork
    normalization: config.Normalization


def make_teacher(teacher: config.Config, student: config.Config) -> Teacher:
    """Builds the teacher of a student.

    Args:
      teacher: the config of the teacher.
      student: the config of the detector to train. It gives the precision, and the teacher's name for
        messages.

    Raises:
      UserError: the two have different locations or different bins.
    """
    name, own, other = student.distillation.teacher, student.detector, teacher.detector
    for field, ours, theirs in (
        ("box.kind", own.box.kind, "general"),
        ("box.kind", own.box.kind, other.box.kind),
        ("box.reg_max", num_parameters(own.box), num_parameters(other.box)),
        ("box.spacing", own.box.spacing, other.box.spacing),
        ("strides", own.strides, other.strides),
        ("assigner.anchor_ratios", num_anchors(own.assigner), num_anchors(other.assigner)),
        ("assigner.cell_centers", location_offset(own.assigner), location_offset(other.assigner)),
    ):
        if ours != theirs:
            raise UserError(
                f"config.distillation.teacher={name}: config.detector.{field} must equal the teacher's, and "
                "box.kind must be 'general'; name another teacher, or change the field"
            )
    return Teacher(build_detector(other, student.precision), teacher.normalization)


def box_maps(
    teacher: Teacher, variables: Any, images: Images, mesh: Mesh | None = None
) -> tuple[Float[Array, "batch h w sides_times_parameters"], ...]:
    """Predicts the box sides of images with the teacher, level by level.

    Args:
      teacher: from `make_teacher`.
      variables: the teacher's parameters and running statistics.
      images: a global batch, or a part of it.
      mesh: the mesh that the batch is split over; None: the batch is not split.
    """
    x = normalize_images(images.images, images.image_sizes, teacher.normalization, teacher.model.dtype)
    return apply_network(teacher.model, variables, x, tpu_chips(mesh)).box
