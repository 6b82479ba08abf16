"""How well a detector predicts the quality of its boxes: predicted against actual IoU."""

from collections.abc import Mapping

import numpy as np
from etils.epath import Path
from jaxtyping import Float
from matplotlib.axes import Axes

from gfl_jax.analysis.collect import Collected
from gfl_jax.analysis.text_tables import Table
from gfl_jax.axes.quality import PREDICTED_BY, Quality
from gfl_jax.console.plain import shortened
from gfl_jax.drawing.figure import BLUE, VERMILION, new_figure, save_figure, tidy

QUOTED = "in the rebuttal, on COCO val: GFL 0.78, ATSS 0.72"
MOST_POINTS = 4000  # of a panel; more would hide each other

Pairs = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]  # predicted and actual IoU


def pearson(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Pearson's correlation coefficient; NaN if one of the two does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def quality_pairs(collected: Collected) -> dict[str, Pairs]:
    """Predicted and actual IoU of the assigned positives and of the final detections."""
    assert collected.quality is not None
    assert collected.detections is not None
    return {
        "positives": (collected.quality, collected.labels["IoU"]),
        "detections": (collected.detections.quality, collected.detections.iou),
    }


def correlation_table(runs: Mapping[str, tuple[Quality, Collected]]) -> Table:
    """Pearson's r of each run; `runs` maps names to the kind of quality and the measures."""
    rows = [
        (name, PREDICTED_BY[quality], of, len(predicted), pearson(predicted, actual))
        for name, (quality, collected) in runs.items()
        for of, (predicted, actual) in quality_pairs(collected).items()
    ]
    headings = ("run", "predicted by", "over", "n", "r")
    return Table("Correlation of predicted and actual IoU", headings, rows, QUOTED)


def plot_correlation(runs: Mapping[str, tuple[Quality, Collected]], path: Path) -> None:
    """Draws scatter plots: one row for each run, positives on the left and detections on the right."""
    figure = new_figure(8, 4.1 * len(runs) + 0.3)
    axes = figure.subplots(len(runs), 2, sharex=True, sharey=True, squeeze=False)
    for row, (name, (quality, collected)) in zip(axes, runs.items(), strict=True):
        pairs = quality_pairs(collected)
        for axis, (of, pair), color in zip(row, pairs.items(), (BLUE, VERMILION), strict=True):
            _scatter(axis, pair, color)
            count, r = len(pair[0]), pearson(*pair)
            drawn = f", {MOST_POINTS} drawn" if count > MOST_POINTS else ""
            known = "unknown" if np.isnan(r) else f"= {r:.2f}"
            axis.set_title(
                f"{shortened(name)}\n{of}: r {known}, n = {count}{drawn}", fontsize=11, parse_math=False
            )
            axis.set_xlabel(f"predicted IoU ({PREDICTED_BY[quality]})")
            axis.xaxis.set_tick_params(labelbottom=True)
        row[0].set_ylabel("actual IoU")
    save_figure(figure, path)


def _scatter(axis: Axes, pair: Pairs, color: str) -> None:
    """Draws a random sample of the points (paler if there are many) and the diagonal."""
    count = len(pair[0])
    chosen = np.random.default_rng(0).permutation(count)[:MOST_POINTS]
    alpha = float(np.clip(300 / max(count, 1), 0.15, 0.6))
    axis.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle="--")
    x, y = pair[0][chosen], pair[1][chosen]
    axis.scatter(x, y, s=9, color=color, alpha=alpha, linewidths=0, clip_on=False)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_aspect("equal")
    tidy(axis)
