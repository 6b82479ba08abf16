"""Ties among the candidates of ATSS, which the reference leaves open, told from errors.

Where the center of a box lies on the grid, several locations are equally near, and of those that are tied
for the last of the `topk` places any may be taken: PyTorch's `topk` takes others on CPUs than on GPUs.
We take the first ones. The choice changes the threshold of its box, and so its other positives.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gfl_jax.targets.atss import MIN_DISTANCE

_SAME = 1e-9  # pixels, or IoU: what differs by less differs by rounding
_MOST = 100_000  # choices that are tried for a box; one with more is not explained


class Tied(NamedTuple):
    """Locations of a level that are equally near to a box, and whose anchors overlap it alike."""

    places: Int[np.ndarray, "n"]
    overlap: float


class Candidates(NamedTuple):
    """Of a box on a level."""

    certain: Int[np.ndarray, "n"]
    tied: list[Tied]  # by overlap
    open_places: int  # how many of the tied locations are taken


def boxes_with_other_ties(
    assigned: Int[np.ndarray, "locations"],
    ours: Int[np.ndarray, "locations"],
    boxes: Float[np.ndarray, "boxes 4"],
    points: Float[np.ndarray, "locations 2"],
    levels: Int[np.ndarray, "locations"],
    half_sides: Float[np.ndarray, "locations"],
    valid: Bool[np.ndarray, "locations"],
    topk: int,
) -> int | None:
    """How many boxes of an image have other tied candidates in one of two assignments.

    Args:
      assigned: by the reference: the box of each location, or -1.
      ours: the same.
      boxes: ground truths in pixels.
      points: the locations.
      levels: of the locations.
      half_sides: of their square anchors, in pixels.
      valid: which locations take part.
      topk: candidates of a box on each level.

    Returns:
      None if no choice of the tied candidates gives `assigned` by Algorithm 1: then it is no tie.
    """
    boxes, points = boxes.astype(np.float64), points.astype(np.float64)
    anchors = np.concatenate([points - half_sides[:, None], points + half_sides[:, None]], axis=1)
    overlaps = np.stack([_iou(box, anchors) for box in boxes]) if len(boxes) else np.zeros((0, len(points)))
    for j, box in enumerate(boxes):
        candidates = _candidates(box, overlaps[j], points, levels, valid, topk)
        inside = _inside(box, points)
        if not any(
            _gives(j, choice, candidates, assigned, overlaps, inside) for choice in _choices(candidates)
        ):
            return None
    differs = assigned != ours
    return len(({*assigned[differs].tolist()} | {*ours[differs].tolist()}) - {-1})


def _candidates(
    box: Float[np.ndarray, "4"],
    overlaps: Float[np.ndarray, "locations"],
    points: Float[np.ndarray, "locations 2"],
    levels: Int[np.ndarray, "locations"],
    valid: Bool[np.ndarray, "locations"],
    topk: int,
) -> list[Candidates]:
    """The candidates of a box on each level, those that are open apart from the certain ones."""
    distances = np.hypot(*(points - (box[:2] + box[2:]) / 2).T)
    found = []
    for level in range(levels.max() + 1):
        here = np.flatnonzero((levels == level) & valid)
        count = min(topk, len(here))
        if not count:
            continue
        farthest = np.sort(distances[here])[count - 1]
        certain = here[distances[here] < farthest - _SAME]
        last = here[np.abs(distances[here] - farthest) <= _SAME]
        if len(certain) + len(last) == count:
            certain, last = np.concatenate([certain, last]), last[:0]
        kinds = np.round(overlaps[last] / _SAME).astype(np.int64)
        tied = [
            Tied(last[kinds == kind], float(overlaps[last[kinds == kind]][0])) for kind in np.unique(kinds)
        ]
        found.append(Candidates(certain, tied, count - len(certain)))
    return found


def _choices(candidates: Sequence[Candidates]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """For each level, how many of each kind of tied locations are taken; none if there are too many ways."""
    ways = [
        [
            counts
            for counts in itertools.product(*(range(len(tied.places) + 1) for tied in level.tied))
            if sum(counts) == level.open_places
        ]
        for level in candidates
    ]
    return itertools.product(*ways) if math.prod(map(len, ways)) <= _MOST else iter(())


def _gives(
    j: int,
    choice: tuple[tuple[int, ...], ...],
    candidates: Sequence[Candidates],
    assigned: Int[np.ndarray, "locations"],
    overlaps: Float[np.ndarray, "boxes locations"],
    inside: Bool[np.ndarray, "locations"],
) -> bool:
    """Whether a choice can lead to all that was assigned to box j, and to nothing else."""
    kinds = [
        (tied, taken)
        for level, counts in zip(candidates, choice, strict=True)
        for tied, taken in zip(level.tied, counts, strict=True)
    ]
    certain = np.concatenate([level.certain for level in candidates])
    values = np.concatenate([overlaps[j][certain], *(np.full(taken, tied.overlap) for tied, taken in kinds)])
    threshold = values.mean() + (values.std(ddof=1) if len(values) > 1 else 0.0)

    def positive(places: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return places[inside[places] & (overlaps[j][places] >= threshold)]

    def lost(places: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Where another box has the location, with more overlap, or as much and a lower number."""
        winner = assigned[places]
        theirs = overlaps[winner, places]
        better = (theirs > overlaps[j][places]) | ((theirs == overlaps[j][places]) & (winner < j))
        return (winner >= 0) & (winner != j) & better

    own = set(np.flatnonzero(assigned == j).tolist())
    must = positive(certain)
    if not ((assigned[must] == j) | lost(must)).all():
        return False
    may = set(must.tolist())
    for tied, taken in kinds:
        places = positive(tied.places)
        unseen = len(tied.places) - len(places)  # taken or not, they are no positives
        seen = int((assigned[places] == j).sum())
        if not seen <= taken <= seen + int(lost(places).sum()) + unseen:
            return False
        may |= set(places.tolist())
    return own <= may


def _iou(box: Float[np.ndarray, "4"], anchors: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    sides = np.minimum(box[2:], anchors[:, 2:]) - np.maximum(box[:2], anchors[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    area = (box[2:] - box[:2]).prod() + (anchors[:, 2:] - anchors[:, :2]).prod(axis=1) - common
    return common / np.maximum(area, 1e-6)


def _inside(box: Float[np.ndarray, "4"], points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, "n"]:
    return np.concatenate([points - box[:2], box[2:] - points], axis=1).min(axis=1) > MIN_DISTANCE
