"""Checks whether a reference's ATSS differs from ours only in its choice among equally near locations.

The candidates of a box on a level are the nearest locations. If several are equally near and not all of them
can be candidates, Algorithm 1 does not say which ones to choose. The choice changes the threshold of the box,
and so all of its positives. Boxes interact only where the largest overlap wins, so each box can be checked
alone.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from gfl_jax.boxes import EPSILON
from gfl_jax.targets.atss import MIN_DISTANCE
from gfl_jax.targets.locations import Locations

MOST_CHOICES = 100_000  # of one box; with more, no difference counts as explained by ties


def is_explained_by_ties(
    assigned: Int[np.ndarray, "locations"],
    boxes: Float[np.ndarray, "boxes 4"],
    valid: Bool[np.ndarray, "locations"],
    locations: Locations,
    topk: int,
) -> bool:
    """Whether ATSS gives exactly this assignment for some choice among equally near candidates.

    Args:
      assigned: the index of each location's box, or -1.
      boxes: ground-truth boxes in pixels, without padding, in the precision of the compared distances.
      valid: which locations lie on the image.
      locations: with one anchor each.
      topk: number of candidates of a box on each level.
    """
    if not -1 <= assigned.min(initial=-1) <= assigned.max(initial=-1) < len(boxes):
        return False
    if np.any(assigned[~valid] >= 0):
        return False
    overlaps = _overlaps(boxes, locations.anchors.astype(boxes.dtype))
    return all(_is_possible(b, assigned, boxes, overlaps, valid, locations, topk) for b in range(len(boxes)))


def _is_possible(
    b: int,
    assigned: Int[np.ndarray, "locations"],
    boxes: Float[np.ndarray, "boxes 4"],
    overlaps: Float[np.ndarray, "boxes locations"],
    valid: Bool[np.ndarray, "locations"],
    locations: Locations,
    topk: int,
) -> bool:
    """Whether some choice gives one box the positives that the assignment needs."""
    points = locations.points.astype(boxes.dtype)
    offsets = points - (boxes[b, :2] + boxes[b, 2:]) / 2
    distances = np.sqrt(np.square(offsets[:, 0]) + np.square(offsets[:, 1]))
    certain, choices = _candidates(distances, valid, locations.levels, topk)
    if math.prod(math.comb(len(tied), free) for tied, free in choices) > MOST_CHOICES:
        return False
    sides = np.concatenate([points - boxes[b, :2], boxes[b, 2:] - points], axis=1)
    inside = np.min(sides, axis=1) > MIN_DISTANCE
    # At the locations of another box, this box may be positive too if its overlap loses.
    others = overlaps[np.maximum(assigned, 0), np.arange(len(assigned))]
    loses = (assigned >= 0) & ((overlaps[b] < others) | ((overlaps[b] == others) & (assigned < b)))
    must, may = assigned == b, (assigned == b) | loses
    for candidates in _all_candidates(certain, choices):
        values = overlaps[b, candidates]
        if len(values) > 1:
            deviations = np.sum(np.square(values - np.mean(values))) / (len(values) - 1)
            positive = candidates[(values >= np.mean(values) + np.sqrt(deviations)) & inside[candidates]]
        else:  # the standard deviation of a single value is NaN
            positive = candidates[:0]
        if np.all(may[positive]) and np.sum(must[positive]) == np.sum(must):
            return True
    return False


def _candidates(
    distances: Float[np.ndarray, "locations"],
    valid: Bool[np.ndarray, "locations"],
    levels: Int[np.ndarray, "locations"],
    topk: int,
) -> tuple[Int[np.ndarray, "certain"], list[tuple[Int[np.ndarray, "tied"], int]]]:
    """The candidates in every choice; for each level with a tie, the tied ones and how many to choose."""
    certain, choices = [], []
    for level in range(int(levels.max()) + 1):
        here = np.flatnonzero((levels == level) & valid)
        count = min(topk, len(here))
        if not count:
            continue
        limit = np.sort(distances[here])[count - 1]
        nearer, tied = here[distances[here] < limit], here[distances[here] == limit]
        free = count - len(nearer)
        certain.append(nearer)
        if free == len(tied):
            certain.append(tied)
        else:
            choices.append((tied, free))
    return np.concatenate([np.zeros(0, int), *certain]), choices


def _all_candidates(
    certain: Int[np.ndarray, "certain"], choices: Sequence[tuple[Int[np.ndarray, "tied"], int]]
) -> Iterator[Int[np.ndarray, "candidates"]]:
    """The candidates of a box for every choice, sorted by location."""
    for chosen in itertools.product(*(itertools.combinations(tied, free) for tied, free in choices)):
        yield np.sort(np.concatenate([certain, *(np.array(part, int) for part in chosen)]))


def _overlaps(
    boxes: Float[np.ndarray, "boxes 4"], anchors: Float[np.ndarray, "locations 4"]
) -> Float[np.ndarray, "boxes locations"]:
    """IoU of every box with every anchor, by numpy in the boxes' precision."""
    low = np.maximum(boxes[:, None, :2], anchors[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], anchors[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=-1) for x in (boxes, anchors)]
    union = areas[0][:, None] + areas[1] - shared
    return shared / np.maximum(union, EPSILON)
