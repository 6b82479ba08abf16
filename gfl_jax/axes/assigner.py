"""Which locations are positive, and for which box: one of the four axes of a detector.

atss: those whose anchors overlap a box most, by its statistics (Zhang et al. 2020);
fcos: those inside a box, on the level for its size (Tian et al. 2019);
fovea: those in the middle of a box, on the levels for its size (FoveaBox, Kong et al. 2020);
max_iou: those whose anchors overlap a box by more than a bound (RetinaNet, Lin et al. 2017).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

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
    """Which locations are positive, and for which box."""

    kind: Literal["atss", "fcos", "fovea", "max_iou"] = "atss"
    # Anchors of a location, in strides: squares of `anchor_scale` and the octave's parts above,
    # each with every ratio of height to width. ATSS has one, RetinaNet nine, FCOS uses none.
    anchor_scale: Positive = 8.0
    anchor_octave_parts: Annotated[int, Range(least=1, most=100)] = 1
    anchor_ratios: tuple[Annotated[float, Range(least=1e-3, most=1e3)], ...] = (1.0,)
    # Whether locations lie in the middle of their cells, as FCOS's and FoveaBox's always do, or in the upper
    # left corner. Weights of mmdetection 1.x, the official GFL repository's among them, need the middle.
    cell_centers: bool = False
    topk: Annotated[int, Range(least=1, most=10**4)] = 9  # ATSS: candidates of a box on each level
    # FCOS: a level takes the boxes whose farthest side is at most this many pixels away, and
    # farther than the bound of the level before. The last level has no bound.
    range_bounds: tuple[Positive, ...] = (64, 128, 256, 512)
    center_radius: Positive | None = None  # FCOS: positives are at most so many strides from the center
    # FoveaBox: of each level, between which sizes (the square root of a box's area) in pixels it takes boxes,
    # and the share of a box's width and height in which locations are positive.
    size_ranges: tuple[tuple[Positive, Positive], ...] = (
        (1, 64),
        (32, 128),
        (64, 256),
        (128, 512),
        (256, 2048),
    )
    fovea_share: Share = 0.4
    positive_iou: Share = 0.5  # max-IoU: anchors from here on are positive,
    negative_iou: Share = 0.4  # those below this one are background, others neither

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


def assigner_requirements(assigner: Assigner, levels: int) -> Iterator[tuple[str, bool, str]]:
    """What an assigner asks of its fields for so many levels: each field, whether it fits, and what does."""
    kind, bounds, upper = assigner.kind, assigner.range_bounds, assigner.positive_iou
    yield "range_bounds", all(a < b for a, b in pairwise(bounds)), "in ascending order"
    one_each = kind != "fcos" or len(bounds) == levels - 1
    yield "range_bounds", one_each, f"one for each of the {levels} levels but the last"
    pairs = kind != "fovea" or len(assigner.size_ranges) == levels
    yield "size_ranges", pairs, f"one pair for each of the {levels} levels"
    ascending = all(low < high for low, high in assigner.size_ranges)
    yield "size_ranges", ascending, "pairs of a least and a larger greatest size"
    yield "negative_iou", assigner.negative_iou <= upper, f"at most positive_iou={upper}"
    yield "anchor_ratios", len(assigner.anchor_ratios) > 0, "at least one"
    single = kind == "max_iou" or num_anchors(assigner) == 1
    yield "anchor_ratios", single, f"one, with one octave part: {kind} has a single anchor at a location"
    enough = kind != "atss" or assigner.topk * levels > 1
    yield "topk", enough, "at least 2 with one level, for the deviation of the candidates' overlaps"


class Targets(NamedTuple):
    """What every location should say."""

    positive: Bool[Array, "batch locations"]
    valid: Bool[Array, "batch locations"]  # False: no part in the loss
    box_index: Int[Array, "batch locations"]  # -1 where not positive
    labels: Int[Array, "batch locations"]  # -1 where not positive
    boxes: Float[Array, "batch locations 4"]  # pixels; zeros where not positive


def assigner_locations(grid_sizes: GridSizes, strides: Sequence[int], assigner: Assigner) -> Locations:
    """The locations of a pyramid with their anchors."""
    shapes = anchor_shapes(assigner.anchor_scale, assigner.anchor_octave_parts, assigner.anchor_ratios)
    return make_locations(grid_sizes, strides, location_offset(assigner), shapes)


def canvas_locations(canvas: Sequence[int], strides: Sequence[int], assigner: Assigner) -> Locations:
    """The locations of a canvas (height, width), as a network with these strides has them."""
    grid_sizes = tuple((-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in strides)
    return assigner_locations(grid_sizes, strides, assigner)


def location_offset(assigner: Assigner) -> float:
    """Strides from the upper left corner of a cell to its location, along both axes."""
    return 0.5 if assigner.kind in ("fcos", "fovea") or assigner.cell_centers else 0.0


def num_anchors(assigner: Assigner) -> int:
    """Anchors of a location."""
    return assigner.anchor_octave_parts * len(assigner.anchor_ratios)


def assign_targets(batch: Batch, locations: Locations, strides: Sequence[int], assigner: Assigner) -> Targets:
    """Assigns the boxes of a batch to the locations of its canvas.

    Args:
      batch: pictures with their boxes.
      locations: from `assigner_locations`.
      strides: of the levels, in pixels.
      assigner: how.
    """
    grid_sizes = locations.grid_sizes
    valid_sizes = valid_grid_sizes(batch.image_sizes, grid_sizes, strides)
    valid = valid_locations(valid_sizes, grid_sizes, num_anchors(assigner))

    def assign(boxes: Array, box_mask: Array, valid_size: Array, valid: Array) -> tuple[Array, Array]:
        # These two count every location of the canvas as background, as in the reference.
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

    return make_targets(batch, *jax.vmap(assign)(batch.boxes, batch.box_mask, valid_sizes, valid))


def make_targets(
    batch: Batch, box_index: Int[Array, "batch locations"], valid: Bool[Array, "batch locations"]
) -> Targets:
    """What every location should say, given the index of its box, or -1, and whether it counts."""
    positive = box_index >= 0
    labels = jnp.take_along_axis(batch.labels, jnp.maximum(box_index, 0), axis=1)
    # Side by side: a TPU is slow in gathering rows of four.
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
    """Positives of the batch, as its losses are divided by them.

    FoveaBox counts one more in each image; assigners with anchors count at least one.
    """
    of_image = jnp.sum(targets.positive, axis=1)
    if assigner.kind == "fovea":
        return jnp.sum(of_image + 1)
    return jnp.sum(of_image if assigner.kind == "fcos" else jnp.maximum(of_image, 1))
