"""Images of many sizes in batches of few shapes.

A bucket is the (height, width) of a padded batch. Buckets are given, or chosen from the sizes of the data.
Each image goes to the smallest bucket that it fits in. What does not fill a batch moves up to a larger
bucket, so that of n images at most one incomplete batch is left in each bucket that no other one contains.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from gfl_jax.errors import UserError
from gfl_jax.structures import SIZE_DIVISOR

Shape = tuple[int, int]

OWN_CANVAS_STEP = 128  # images that fit in no bucket get canvases of multiples of this
_MOST_OWN_CANVASES = 2
_MOST_DISTINCT = 200  # shapes to begin the choice with
_FREE = 0.02  # padding that one bucket fewer is worth, as a share of all pixels


class Group(NamedTuple):
    """Images, at most a batch of them, that share a bucket."""

    bucket: Shape
    members: Int[np.ndarray, "images"]  # positions in the list that was grouped


def by_area(buckets: Sequence[Shape]) -> list[Shape]:
    """The buckets, each once, smallest first."""
    return sorted(dict.fromkeys(buckets), key=lambda bucket: bucket[0] * bucket[1])


def fits(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape]) -> Bool[np.ndarray, "n buckets"]:
    """Which images, of (height, width) sizes, fit in which buckets."""
    return np.all(sizes[:, None, :] <= np.array(buckets).reshape(1, -1, 2), axis=2)


def outermost(buckets: Sequence[Shape]) -> list[Shape]:
    """The buckets that no other bucket contains."""
    return [b for b in buckets if not any(_contains(other, b) for other in buckets)]


def choose_buckets(sizes: Int[np.ndarray, "n 2"], most: int, step: int = SIZE_DIVISOR) -> tuple[Shape, ...]:
    """A few buckets in which all images fit, with little padding: a pure function of the sizes.

    It begins with a bucket for each size and joins, again and again, the two whose common bucket pads the
    least, until at most `most` are left and one fewer would be felt.

    Args:
      sizes: (height, width) of each image, as it will be shown; at least one.
      most: how many buckets there may be.
      step: what their sides are multiples of.

    Returns:
      The buckets, smallest first. Their order and that of the sizes do not matter.
    """
    shapes, counts = np.unique(-(-sizes // step) * step, axis=0, return_counts=True)
    while len(shapes) > _MOST_DISTINCT:
        step *= 2
        shapes, inverse = np.unique(-(-shapes // step) * step, axis=0, return_inverse=True)
        counts = np.bincount(inverse.ravel(), counts).astype(np.int64)
    shapes = shapes.astype(np.int64)
    pixels = counts * shapes.prod(axis=1)
    allowed = (1 + _FREE) * pixels.sum()
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
    """The buckets, and canvases for the images that fit in none of them."""
    homeless = ~fits(sizes, buckets).any(axis=1)
    if not homeless.any():
        return tuple(buckets)
    return (*buckets, *choose_buckets(sizes[homeless], _MOST_OWN_CANVASES, OWN_CANVAS_STEP))


def padded_share(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape]) -> float:
    """The share of padding in all pixels, where each image is in the smallest bucket that it fits in."""
    ordered = by_area(buckets)
    areas = np.array(ordered, np.int64).prod(axis=1)[fits(sizes, ordered).argmax(axis=1)]
    return float(1 - sizes.astype(np.int64).prod(axis=1).sum() / areas.sum())


def group_by_bucket(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape], group_size: int) -> list[Group]:
    """Groups images by bucket, in their order; every image is in exactly one group.

    Args:
      sizes: (height, width) of each image, as it will be shown.
      buckets: what shapes batches may have; every image fits in one.
      group_size: the size of a full group.
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
    """ "800x1344" as (height, width).

    Raises:
      UserError: it is something else, or no size that the network takes.
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
