"""Which learned distributions are worth a look: sharp, flat and two-peaked ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from gfl_jax.analysis.collect import Found
from gfl_jax.analysis.text_tables import Cell, Table
from gfl_jax.errors import UserError

SIDES = ("left", "top", "right", "bottom")


def entropy(probabilities: Float[np.ndarray, "*n bins"]) -> Float[np.ndarray, "*n"]:
    """In bits: 0 if all is on one bin, log2(bins) if all bins are alike."""
    tiny = np.finfo(probabilities.dtype).tiny  # 0 log 0 is 0
    return -np.sum(probabilities * np.log2(np.maximum(probabilities, tiny)), axis=-1)


def second_peak(probabilities: Float[np.ndarray, "*n bins"]) -> Float[np.ndarray, "*n"]:
    """How far a second peak rises above the valley between it and the highest one; 0 without one."""
    bins = np.arange(probabilities.shape[-1])
    highest = np.argmax(probabilities, axis=-1, keepdims=True)
    beyond = np.where(bins >= highest, probabilities, np.inf)
    before = np.where(bins <= highest, probabilities, np.inf)
    # The lowest probability on the way from the highest peak to each bin.
    valley = np.minimum(
        np.minimum.accumulate(beyond, axis=-1), np.minimum.accumulate(before[..., ::-1], axis=-1)[..., ::-1]
    )
    return np.max(probabilities - valley, axis=-1)


def choose(found: Found, each: int = 3) -> dict[str, Int[np.ndarray, "chosen"]]:
    """Indices of detections whose distributions are the sharpest, flattest and most two-peaked.

    Only confident detections count: those with at least half the score of the best one. A box
    is sharp by the mean entropy of its sides, flat and two-peaked by its most extreme side, and
    in one group only.

    Args:
      found: the detections, best first.
      each: how many of each group, if there are enough.
    """
    confident = np.flatnonzero(found.scores >= found.scores[:1].sum() / 2)
    probabilities = found.probabilities[confident]
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


def bin_pixels(found: Found, index: int, values: Float[np.ndarray, "bins"]) -> Float[np.ndarray, "4 bins"]:
    """Where a side would be for each bin: x of left and right, y of top and bottom, original pixels.

    Args:
      found: the detections.
      index: of one of them.
      values: the bins' distances in strides.
    """
    distances = np.tile(found.strides[index], 2)[:, None] * values
    directions = np.array([-1, -1, 1, 1])[:, None]
    return np.tile(found.points[index], 2)[:, None] + directions * distances


def check_indices(indices: Sequence[int], count: int) -> None:
    """Raises a UserError if a detection that was asked for is not there."""
    for index in indices:
        if not 0 <= index < count:
            raise UserError(
                f"--boxes={index}: there are {count} detections, numbered from 0 by score; name one of these"
            )


def distribution_table(name: str, found: Found, groups: dict[str, Int[np.ndarray, "chosen"]]) -> Table:
    """What is drawn: scores and IoUs of the chosen boxes, and the entropy of each side in bits."""
    rows: list[tuple[Cell, ...]] = [
        (group, i, float(found.scores[i]), float(found.iou[i]), *entropy(found.probabilities[i]).tolist())
        for group, indices in groups.items()
        for i in indices.tolist()
    ]
    headings = ("group", "box", "score", "IoU", *SIDES)
    bins = found.probabilities.shape[-1]
    caption = f"sides: entropy in bits, between 0 and {np.log2(bins):.2f} ({bins} bins alike)"
    return Table(f"Distributions of the sides: {name}", headings, rows, caption)


def probability_table(
    found: Found, groups: dict[str, Int[np.ndarray, "chosen"]], values: Float[np.ndarray, "bins"]
) -> Table:
    """The probability of each bin of what is drawn, and the pixel where it stands."""
    rows: list[tuple[Cell, ...]] = []
    for group, indices in groups.items():
        for i in indices.tolist():
            pixels = bin_pixels(found, i, values)
            for k, side in enumerate(SIDES):
                columns = (values.tolist(), pixels[k].tolist(), found.probabilities[i, k].tolist())
                rows += [(group, i, side, *cells) for cells in zip(*columns, strict=True)]
    headings = ("group", "box", "side", "distance in strides", "pixel", "probability")
    return Table("Distributions of the sides", headings, rows)
