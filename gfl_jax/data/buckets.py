"""Sorts images of many sizes into batches of few shapes.

A bucket is the (height, width) of a padded batch. The config gives the buckets, or they are chosen from the
image sizes. Each image goes to the smallest bucket that it fits in. Images that do not fill a batch move up
to a larger bucket. Only a bucket that no other bucket contains can end with an incomplete batch, at most one.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from gfl_jax.errors import UserError
from gfl_jax.structures import SIZE_DIVISOR

Shape = tuple[int, int]

OWN_CANVAS_STEP = 128  # images that fit in no bucket get canvases whose sides are multiples of this
_MAX_OWN_CANVASES = 2
_MAX_DISTINCT = 200  # shapes at the start of the choice
_ACCEPTED_PADDING = 0.02  # extra padding, as a share of all pixels, that is accepted for fewer buckets


class Group(NamedTuple):
    """At most one batch of images that share a bucket."""

    bucket: Shape
    members: Int[np.ndarray, "images"]  # positions in the grouped list


def by_area(buckets: Sequence[Shape]) -> list[Shape]:
    """The buckets without duplicates, smallest area first."""
    return sorted(dict.fromkeys(buckets), key=lambda bucket: bucket[0] * bucket[1])


def fits(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape]) -> Bool[np.ndarray, "n buckets"]:
    """Whether each image of size (height, width) fits in each bucket."""
    return np.all(sizes[:, None, :] <= np.array(buckets).reshape(1, -1, 2), axis=2)


def outermost(buckets: Sequence[Shape]) -> list[Shape]:
    """The buckets that no other bucket contains."""
    return [b for b in buckets if not any(_contains(other, b) for other in buckets)]


def choose_buckets(sizes: Int[np.ndarray, "n 2"], most: int, step: int = SIZE_DIVISOR) -> tuple[Shape, ...]:
    """Chooses a few buckets that hold all images with little padding.

    It starts with one bucket for each size and repeatedly joins the two buckets whose common bucket adds the
    least padding. It stops when at most `most` are left and another join would add too much padding.

    Args:
      sizes: (height, width) of each resized image; at least one.
      most: the largest number of buckets.
      step: all bucket sides are multiples of this.

    Returns:
      The buckets, smallest area first. They do not depend on the order of the sizes.
    """
    shapes, counts = np.unique(-(-sizes // step) * step, axis=0, return_counts=True)
    while len(shapes) > _MAX_DISTINCT:
        step *= 2
        shapes, inverse = np.unique(-(-shapes // step) * step, axis=0, return_inverse=True)
        counts = np.bincount(inverse.ravel(), counts).astype(np.int64)
    shapes = shapes.astype(np.int64)
    pixels = counts * shapes.prod(axis=1)
    allowed = (1 + _ACCEPTED_PADDING) * pixels.sum()
    while len(shapes) > 1:
        joined = np.maximum(shapes[:, None], shapes[None])
        more = np.add.outer(counts, counts) * joined.prod(axis=2) - np.add.outer(pixels, pixels)
        more[np.tril_indices(len(shapes))] = np.iinfo(np.int64).max
        i, j = np.unravel_index(more.argmin(), more.shape)
        if len(shapes) <= most and pixels.sum() + more[i, j] > allowed:
            break
        shapes[i], counts[i] = joined[i, j], counts[i] + counts[j]
        pixels[i] += pixels[j] + more[i, j]
        shapes, counts, pixels = (np.delete(x, j, axis=0) for x in (shapes, counts, pixels))
    return tuple(by_area([(height, width) for height, width in shapes.tolist()]))


def with_room_for(buckets: Sequence[Shape], sizes: Int[np.ndarray, "n 2"]) -> tuple[Shape, ...]:
    """The buckets, plus canvases for the images that fit in none of them."""
    too_large = ~fits(sizes, buckets).any(axis=1)
    if not too_large.any():
        return tuple(buckets)
    return (*buckets, *choose_buckets(sizes[too_large], _MAX_OWN_CANVASES, OWN_CANVAS_STEP))


def padded_share(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape]) -> float:
    """The share of padding in all pixels if each image is in the smallest bucket that it fits in."""
    ordered = by_area(buckets)
    areas = np.array(ordered, np.int64).prod(axis=1)[fits(sizes, ordered).argmax(axis=1)]
    return float(1 - sizes.astype(np.int64).prod(axis=1).sum() / areas.sum())


def group_by_bucket(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape], group_size: int) -> list[Group]:
    """Groups images by bucket and keeps their order; every image is in exactly one group.

    Args:
      sizes: (height, width) of each resized image.
      buckets: the allowed shapes of batches; every image must fit in one of them.
      group_size: number of images in a full group.
    """
    buckets = by_area(buckets)
    smallest = fits(sizes, buckets).argmax(axis=1)
    waiting = [np.flatnonzero(smallest == b) for b in range(len(buckets))]
    groups = []
    for b, bucket in enumerate(buckets):
        members = waiting[b]
        full = len(members) // group_size * group_size
        groups += [Group(bucket, part) for part in members[:full].reshape(-1, group_size)]
        rest = members[full:]
        larger = [c for c in range(b + 1, len(buckets)) if _contains(buckets[c], bucket)]
        if len(rest) and larger:
            waiting[larger[0]] = np.sort(np.concatenate([waiting[larger[0]], rest]))
        elif len(rest):
            groups.append(Group(bucket, rest))
    return groups


def parse_canvas(text: str) -> Shape:
    """Parses a size such as "800x1344" to (height, width).

    Raises:
      UserError: the text is not HEIGHTxWIDTH, or the network does not accept this size.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not height or not width or height % SIZE_DIVISOR or width % SIZE_DIVISOR:
        raise UserError(
            f"--size={text}: must be HEIGHTxWIDTH, both multiples of {SIZE_DIVISOR}, such as 800x1344"
        )
    return height, width


def _contains(outer: Shape, inner: Shape) -> bool:
    return outer != inner and outer[0] >= inner[0] and outer[1] >= inner[1]
