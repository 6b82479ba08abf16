"""What a quality branch is asked to say: the labels IoU and centerness over the assigned positives.

The paper's argument (GFL, appendix): the centerness of some true boxes is small at each of their
positives, small boxes above all, so that a detector which multiplies it in cannot score them high.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from gfl_jax.analysis.collect import Collected
from gfl_jax.analysis.tables import Cell, Table
from gfl_jax.pictures.figure import BLUE, VERMILION, new_figure, save_figure, tidy

THRESHOLDS = tuple(i / 10 for i in range(1, 10))
COLORS = {"IoU": BLUE, "centerness": VERMILION}
MOST_POINTS = 4000


def shares_below(
    values: Float[np.ndarray, "n"], thresholds: Sequence[float] = THRESHOLDS
) -> Float[np.ndarray, "thresholds"]:
    """The share of values under each threshold; NaN if there is no value."""
    if not len(values):
        return np.full(len(thresholds), np.nan)
    # Labels are float32: compared as they are, 0.1 would be above the threshold 0.1.
    return np.mean(values[:, None] < np.asarray(thresholds, values.dtype), axis=0)


def label_table(runs: Mapping[str, Collected]) -> Table:
    """The shares of positives, and of true boxes by their best label, that lie under 0.1, 0.2, ..."""
    rows: list[tuple[Cell, ...]] = []
    for name, collected in runs.items():
        for of, parts in (("positives", collected.labels), ("true boxes, best", collected.best)):
            for label, values in sorted(parts.items()):
                rows.append((name, label, of, len(values), *shares_below(values).tolist()))
    headings = ("run", "label", "of", "n", *(f"<{threshold:g}" for threshold in THRESHOLDS))
    caption = "a true box without a positive has 0 for its best label"
    return Table("Share of labels under a threshold", headings, rows, caption)


def plot_labels(runs: Mapping[str, Collected], path: Path) -> None:
    """For each run: labels of positives, best labels of true boxes, and these by the boxes' sizes."""
    figure = new_figure(12, 3.9 * len(runs))
    axes = figure.subplots(len(runs), 3, squeeze=False)
    for (positives, best, by_size), (name, collected) in zip(axes, runs.items(), strict=True):
        _histogram(positives, collected.labels)
        positives.set_title(f"{name}: {_count(collected.labels)} positives")
        _cumulative(best, collected.best)
        best.set_title(f"{name}: {_count(collected.best)} true boxes")
        _by_size(by_size, collected)
        by_size.set_title(f"{name}: large and small boxes")
        for axis in (positives, best, by_size):
            tidy(axis)
    save_figure(figure, path)


def _histogram(axis: Axes, labels: dict[str, Float[np.ndarray, "n"]]) -> None:
    edges = np.linspace(0, 1, 21).tolist()
    for name, values in sorted(labels.items()):
        share = np.full(len(values), 1 / max(len(values), 1))
        color = COLORS[name]
        axis.hist(values, edges, weights=share, color=color, alpha=0.25)
        axis.hist(values, edges, weights=share, color=color, histtype="step", linewidth=1.5, label=name)
    axis.set_xlabel("label of a positive")
    axis.set_ylabel("share of positives")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, 1)
    axis.legend(frameon=False)


def _cumulative(axis: Axes, best: dict[str, Float[np.ndarray, "n"]]) -> None:
    for name, values in sorted(best.items()):
        axis.plot(THRESHOLDS, shares_below(values), color=COLORS[name], marker="o", label=name)
    axis.set_xlabel("threshold")
    axis.set_ylabel("true boxes with best label under it")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, 1)
    axis.set_xticks(THRESHOLDS)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)


def _by_size(axis: Axes, collected: Collected) -> None:
    chosen = np.random.default_rng(0).permutation(len(collected.sizes))[:MOST_POINTS]
    for name, values in sorted(collected.best.items()):
        axis.scatter(
            collected.sizes[chosen],
            values[chosen],
            s=10,
            color=COLORS[name],
            alpha=0.5,
            linewidths=0,
            label=name,
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_xlabel("square root of the box's area, pixels")
    axis.set_ylabel("best label of a true box")
    axis.set_ylim(0, 1)
    axis.legend(frameon=False)


def _count(parts: dict[str, Float[np.ndarray, "n"]]) -> int:
    return len(parts["centerness"])
