"""Pictures of many sizes in batches of few shapes.

A bucket is the (height, width) of a padded batch. Each picture goes to the smallest bucket
that it fits in. What does not fill a batch moves up to a larger bucket, so that of n
pictures at most one incomplete batch is left in each bucket that no other one contains.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from gfl_jax.errors import UserError
from gfl_jax.structures import SIZE_DIVISOR

Shape = tuple[int, int]


class Group(NamedTuple):
    """Pictures, at most a batch of them, that share a bucket."""

    bucket: Shape
    members: Int[np.ndarray, "pictures"]  # positions in the list that was grouped


def by_area(buckets: Sequence[Shape]) -> list[Shape]:
    """The buckets, each once, smallest first."""
    return sorted(dict.fromkeys(buckets), key=lambda bucket: bucket[0] * bucket[1])


def fits(sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape]) -> Bool[np.ndarray, "n buckets"]:
    """Which pictures, of (height, width) sizes, fit in which buckets."""
    return np.all(sizes[:, None, :] <= np.array(buckets).reshape(1, -1, 2), axis=2)


def outermost(buckets: Sequence[Shape]) -> list[Shape]:
    """The buckets that no other bucket contains."""
    return [b for b in buckets if not any(_contains(other, b) for other in buckets)]


def group_by_bucket(
    sizes: Int[np.ndarray, "n 2"], buckets: Sequence[Shape], group_size: int, names: Sequence[str]
) -> list[Group]:
    """Groups pictures by bucket, in their order; every picture is in exactly one group.

    Args:
      sizes: (height, width) of each picture, as it will be shown.
      buckets: what shapes batches may have.
      group_size: the size of a full group.
      names: of the pictures, for error messages.

    Raises:
      UserError: a picture fits in no bucket.
    """
    buckets = by_area(buckets)
    fitting = fits(sizes, buckets)
    if not fitting.any(axis=1).all():
        at = int(np.flatnonzero(~fitting.any(axis=1))[0])
        raise UserError(
            f"{names[at]}: is {sizes[at, 0]} x {sizes[at, 1]} pixels (height x width) after resizing, which "
            f"fits in none of config.loader.buckets={tuple(buckets)}; add a larger one or resize to less"
        )
    smallest = fitting.argmax(axis=1)
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
