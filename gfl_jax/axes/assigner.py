"""Which locations are positive, and for which box: one of the four axes of a detector.

atss: candidates whose anchor's IoU with a box is above a threshold that comes from the mean and the
  deviation of the box's candidates (Zhang et al. 2020);
fcos: locations inside a box, on the level for its size (Tian et al. 2019);
fovea: locations in the middle of a box, on the levels for its size (FoveaBox, Kong et al. 2020);
max_iou: anchors whose IoU with a box reaches a fixed threshold (RetinaNet, Lin et al. 2017).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfl_jax.configuration.fields import Positive, Range, Share, check_fields
from gfl_jax.structures import Batch
from gfl_jax.targets.atss import assign_atss
from gfl_jax.targets.fcos import assign_fcos
from gfl_jax.targets.fovea import assign_fovea
from gfl_jax.targets.locations import (
    GridSizes,
    Locations,
    anchor_shapes,
    make_locations,
    valid_grid_sizes,
    valid_locations,
)
from gfl_jax.targets.max_iou import assign_max_iou


@dataclasses.dataclass(frozen=True)
class Assigner:
    """Which locations are positive, and for which box.

    A location has `anchor_octave_parts` anchors for each of `anchor_ratios`: one in ATSS, nine in RetinaNet.
    FCOS uses no anchors.
    """

    # Assignment rule: that of ATSS, FCOS, FoveaBox (fovea) or RetinaNet (max_iou)
    kind: Literal["atss", "fcos", "fovea", "max_iou"] = "atss"
    anchor_scale: Positive = 8.0  # Square root of the area of the smallest anchor of a location, in strides
    # Number of anchor scales of a location: `anchor_scale` * 2^(i / anchor_octave_parts) for i = 0, 1, ...
    anchor_octave_parts: Annotated[int, Range(least=1, most=100)] = 1
    # Ratios of height to width of the anchors of a location; each scale has every ratio
    anchor_ratios: tuple[Annotated[float, Range(least=1e-3, most=1e3)], ...] = (1.0,)
    # Whether locations lie in the middle of their cells, as they always do in FCOS and FoveaBox, or in the
    # upper left corner. Weights of mmdetection 1.x and of the official GFL repository need the middle.
    cell_centers: bool = False
    topk: Annotated[int, Range(least=1, most=10**4)] = 9  # ATSS: candidates of a box on each level
    # FCOS: a level takes the boxes whose farthest side is at most this many pixels from the location, and
    # farther than the bound of the level before. One bound for each level but the last, which has none.
    range_bounds: tuple[Positive, ...] = (64, 128, 256, 512)
    # FCOS: positives are within this many strides of the center of their box, along both axes; None: anywhere
    # in the box
    center_radius: Positive | None = None
    # FoveaBox: smallest and largest size of the boxes that each level takes; the size is the square root of
    # the area, in pixels
    size_ranges: tuple[tuple[Positive, Positive], ...] = (
        (1, 64),
        (32, 128),
        (64, 256),
        (128, 512),
        (256, 2048),
    )
    # FoveaBox: share of a box's width and height, around its center, in which locations are positive
    fovea_share: Share = 0.4
    # RetinaNet: anchors with at least this IoU with a box are positive. So are the best anchors of each box.
    positive_iou: Share = 0.5
    # RetinaNet: anchors whose largest IoU is below this are background; from here to `positive_iou` they are
    # ignored
    negative_iou: Share = 0.4

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


def assigner_requirements(assigner: Assigner, levels: int) -> Iterator[tuple[str, bool, str]]:
    """Yields an assigner's requirements on its fields: the field, whether it fits, and what it must be.

    Args:
      assigner: the assigner.
      levels: number of pyramid levels.
    """
    kind, bounds, upper = assigner.kind, assigner.range_bounds, assigner.positive_iou
    yield "range_bounds", all(a < b for a, b in pairwise(bounds)), "in ascending order"
    one_each = kind != "fcos" or len(bounds) == levels - 1
    yield "range_bounds", one_each, f"one value for each of the {levels} levels except the last"
    pairs = kind != "fovea" or len(assigner.size_ranges) == levels
    yield "size_ranges", pairs, f"one pair for each of the {levels} levels"
    ascending = all(low < high for low, high in assigner.size_ranges)
    yield "size_ranges", ascending, "pairs (smallest, largest) with smallest < largest"
    yield "negative_iou", assigner.negative_iou <= upper, f"at most positive_iou={upper}"
    yield "anchor_ratios", len(assigner.anchor_ratios) > 0, "at least one ratio"
    single = kind == "max_iou" or num_anchors(assigner) == 1
    yield "anchor_ratios", single, f"one ratio, with anchor_octave_parts=1: {kind} has one anchor a location"
    enough = kind != "atss" or assigner.topk * levels > 1
    yield "topk", enough, "at least 2 with one level, since ATSS needs the deviation of the candidates' IoUs"


class Targets(NamedTuple):
    """What every location should predict."""

    positive: Bool[Array, "batch locations"]
    valid: Bool[Array, "batch locations"]  # False: ignored in the losses
    box_index: Int[Array, "batch locations"]  # -1 where not positive
    labels: Int[Array, "batch locations"]  # -1 where not positive
    boxes: Float[Array, "batch locations 4"]  # pixels; zeros where not positive


def assigner_locations(grid_sizes: GridSizes, strides: Sequence[int], assigner: Assigner) -> Locations:
    """The locations of a pyramid with their anchors."""
    shapes = anchor_shapes(assigner.anchor_scale, assigner.anchor_octave_parts, assigner.anchor_ratios)
    return make_locations(grid_sizes, strides, location_offset(assigner), shapes)


def canvas_locations(canvas: Sequence[int], strides: Sequence[int], assigner: Assigner) -> Locations:
    """The locations of a canvas (height, width) in a network with these strides."""
    grid_sizes = tuple((-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in strides)
    return assigner_locations(grid_sizes, strides, assigner)


def location_offset(assigner: Assigner) -> float:
    """The distance from the upper left corner of a cell to its location, in strides, along both axes."""
    return 0.5 if assigner.kind in ("fcos", "fovea") or assigner.cell_centers else 0.0


def num_anchors(assigner: Assigner) -> int:
    """The number of anchors of a location."""
    return assigner.anchor_octave_parts * len(assigner.anchor_ratios)


def assign_targets(batch: Batch, locations: Locations, strides: Sequence[int], assigner: Assigner) -> Targets:
    """Assigns the boxes of a batch to the locations of its canvas.

    Args:
      batch: images with their boxes.
      locations: from `assigner_locations`.
      strides: of the levels, in pixels.
      assigner: the assignment rule and its parameters.
    """
    grid_sizes = locations.grid_sizes
    valid_sizes = valid_grid_sizes(batch.image_sizes, grid_sizes, strides)
    valid = valid_locations(valid_sizes, grid_sizes, num_anchors(assigner))

    def assign(boxes: Array, box_mask: Array, valid_size: Array, valid: Array) -> tuple[Array, Array]:
        # In FCOS and FoveaBox every location of the canvas counts, padding too, as in the reference.
        if assigner.kind == "fcos":
            index = assign_fcos(boxes, box_mask, locations, assigner.range_bounds, assigner.center_radius)
            return index, jnp.ones_like(valid)
        if assigner.kind == "fovea":
            index = assign_fovea(boxes, box_mask, locations, assigner.size_ranges, assigner.fovea_share)
            return index, jnp.ones_like(valid)
        if assigner.kind == "max_iou":
            return assign_max_iou(
                boxes, box_mask, valid, locations, assigner.positive_iou, assigner.negative_iou
            )
        if assigner.kind == "atss":
            index = assign_atss(
                boxes,
                box_mask,
                valid_size,
                grid_sizes,
                strides,
                assigner.topk,
                assigner.anchor_scale,
                location_offset(assigner),
            )
            return index, valid
        assert_never(assigner.kind)

    return make_targets(batch, *jax.vmap(assign)(batch.boxes, batch.box_mask, valid_sizes, valid))


def make_targets(
    batch: Batch, box_index: Int[Array, "batch locations"], valid: Bool[Array, "batch locations"]
) -> Targets:
    """The targets of every location, from the index of its box (or -1) and whether it counts."""
    positive = box_index >= 0
    labels = jnp.take_along_axis(batch.labels, jnp.maximum(box_index, 0), axis=1)
    # One side at a time, because a TPU gathers rows of four slowly.
    sides = [
        jnp.take_along_axis(side, jnp.maximum(box_index, 0), axis=1)
        for side in jnp.moveaxis(batch.boxes, -1, 0)
    ]
    boxes = jnp.stack(sides, axis=-1)
    return Targets(
        positive=positive,
        valid=valid,
        box_index=box_index,
        labels=jnp.where(positive, labels, -1),
        boxes=jnp.where(positive[..., None], boxes, 0),
    )


def count_positives(targets: Targets, assigner: Assigner) -> Int[Array, ""]:
    """The number of positives of a batch that its losses are divided by.

    FoveaBox counts one more in each image; assigners with anchors count at least one in each image.
    """
    of_image = jnp.sum(targets.positive, axis=1)
    if assigner.kind == "fovea":
        return jnp.sum(of_image + 1)
    return jnp.sum(of_image if assigner.kind == "fcos" else jnp.maximum(of_image, 1))
