"""Chooses learned distributions that are worth a look: sharp, flat and two-peaked ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from gfl_jax.analysis.collect import CollectedDetections
from gfl_jax.analysis.text_tables import Cell, Table
from gfl_jax.errors import UserError

SIDES = ("left", "top", "right", "bottom")


def entropy(probabilities: Float[np.ndarray, "*n bins"]) -> Float[np.ndarray, "*n"]:
    """The entropy in bits: 0 if one bin has probability 1, log2(bins) if all bins are equal."""
    tiny = np.finfo(probabilities.dtype).tiny  # 0 log 0 is 0
    return -np.sum(probabilities * np.log2(np.maximum(probabilities, tiny)), axis=-1)


def second_peak(probabilities: Float[np.ndarray, "*n bins"]) -> Float[np.ndarray, "*n"]:
    """The height of a second peak above the valley between it and the highest peak; 0 if there is none."""
    bins = np.arange(probabilities.shape[-1])
    highest = np.argmax(probabilities, axis=-1, keepdims=True)
    beyond = np.where(bins >= highest, probabilities, np.inf)
    before = np.where(bins <= highest, probabilities, np.inf)
    # The lowest probability on the way from the highest peak to each bin.
    valley = np.minimum(
        np.minimum.accumulate(beyond, axis=-1), np.minimum.accumulate(before[..., ::-1], axis=-1)[..., ::-1]
    )
    return np.max(probabilities - valley, axis=-1)


def choose(detections: CollectedDetections, each: int = 3) -> dict[str, Int[np.ndarray, "chosen"]]:
    """Chooses the detections whose distributions are the sharpest, flattest and most two-peaked.

    Only confident detections are chosen: those with at least half the score of the best one. Sharp boxes are
    chosen by the mean entropy of their sides, flat and two-peaked boxes by their most extreme side. A box is
    in one group only.

    Args:
      detections: the detections, best first.
      each: the number of boxes in each group, if there are enough.

    Returns:
      The indices of the chosen detections, by the name of their group.
    """
    confident = np.flatnonzero(detections.scores >= detections.scores[:1].sum() / 2)
    probabilities = detections.probabilities[confident]
    bits = entropy(probabilities)
    ranks = {
        "sharpest": np.mean(bits, axis=-1),
        "flattest": -np.max(bits, axis=-1),
        "two-peaked": -np.max(second_peak(probabilities), axis=-1),
    }
    chosen: dict[str, np.ndarray] = {}
    for name, rank in ranks.items():
        order = confident[np.argsort(rank, kind="stable")]
        taken = np.concatenate([*chosen.values(), np.zeros(0, int)])
        chosen[name] = order[~np.isin(order, taken)][:each]
    return chosen


def bin_pixels(
    detections: CollectedDetections, index: int, values: Float[np.ndarray, "bins"]
) -> Float[np.ndarray, "4 bins"]:
    """The position of a side for each bin: x of left and right, y of top and bottom, in original pixels.

    Args:
      detections: from `collect`.
      index: of one of them.
      values: the bins' distances in strides.
    """
    distances = np.tile(detections.strides[index], 2)[:, None] * values
    directions = np.array([-1, -1, 1, 1])[:, None]
    return np.tile(detections.points[index], 2)[:, None] + directions * distances


def check_indices(indices: Sequence[int], count: int) -> None:
    """Raises UserError if an index is not the number of a detection."""
    for index in indices:
        if not 0 <= index < count:
            raise UserError(
                f"--boxes={index}: there are {count} detections, numbered from 0 by score; name one of these"
            )


def distribution_table(
    name: str, detections: CollectedDetections, groups: dict[str, Int[np.ndarray, "chosen"]]
) -> Table:
    """A table of the drawn boxes: score, IoU, and the entropy of each side in bits."""
    rows: list[tuple[Cell, ...]] = [
        (
            group,
            i,
            float(detections.scores[i]),
            float(detections.iou[i]),
            *entropy(detections.probabilities[i]).tolist(),
        )
        for group, indices in groups.items()
        for i in indices.tolist()
    ]
    headings = ("group", "box", "score", "IoU", *SIDES)
    bins = detections.probabilities.shape[-1]
    caption = f"sides: entropy in bits, between 0 and {np.log2(bins):.2f} ({bins} equal bins)"
    return Table(f"Distributions of the box sides: {name}", headings, rows, caption)


def probability_table(
    detections: CollectedDetections,
    groups: dict[str, Int[np.ndarray, "chosen"]],
    values: Float[np.ndarray, "bins"],
) -> Table:
    """A table of the drawn boxes: the probability of each bin, and the pixel where the bin lies."""
    rows: list[tuple[Cell, ...]] = []
    for group, indices in groups.items():
        for i in indices.tolist():
            pixels = bin_pixels(detections, i, values)
            for k, side in enumerate(SIDES):
                columns = (values.tolist(), pixels[k].tolist(), detections.probabilities[i, k].tolist())
                rows += [(group, i, side, *cells) for cells in zip(*columns, strict=True)]
    headings = ("group", "box", "side", "distance in strides", "pixel", "probability")
    return Table("Distributions of the box sides", headings, rows)
