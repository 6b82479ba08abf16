"""The labels that a quality branch learns: IoU and centerness of the assigned positives.

The paper's argument (GFL, appendix): some ground-truth boxes, above all small ones, have a small centerness
at all of their positives. A detector that multiplies its scores by centerness cannot score such boxes high.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from etils.epath import Path
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from gfl_jax.analysis.collect import Collected
from gfl_jax.analysis.text_tables import Cell, Table
from gfl_jax.console.plain import shortened
from gfl_jax.drawing.figure import BLUE, VERMILION, new_figure, save_figure, tidy

THRESHOLDS = tuple(i / 10 for i in range(1, 10))
COLORS = {"IoU": BLUE, "centerness": VERMILION}
MOST_POINTS = 4000


def shares_below(
    values: Float[np.ndarray, "n"], thresholds: Sequence[float] = THRESHOLDS
) -> Float[np.ndarray, "thresholds"]:
    """The share of values below each threshold; NaN if there are no values."""
    if not len(values):
        return np.full(len(thresholds), np.nan)
    # Labels are float32: compared with a float64 threshold of 0.1, a label of 0.1 would be above it.
    return np.mean(values[:, None] < np.asarray(thresholds, values.dtype), axis=0)


def label_tables(runs: Mapping[str, Collected]) -> list[Table]:
    """One table for each run: the shares of labels below 0.1, 0.2, ..."""
    tables = []
    for name, collected in runs.items():
        parts = _parts(collected)
        columns = [shares_below(values).tolist() for *_, values in parts]
        headings = ("<", *(f"{label}, {of}" for label, of, _ in parts))
        rows = [(f"{threshold:g}", *shares) for threshold, *shares in zip(THRESHOLDS, *columns, strict=True)]
        caption = (
            f"best: highest label of each of {len(collected.sizes)} ground-truth boxes; 0 without positives"
        )
        title = f"{name}: share of labels below 0.1, 0.2, ..."
        tables.append(Table(title, headings, rows, caption))
    return tables


def label_rows(runs: Mapping[str, Collected]) -> Table:
    """One table for all runs, with one share per row."""
    rows: list[tuple[Cell, ...]] = []
    for name, collected in runs.items():
        for label, of, values in _parts(collected):
            for threshold, share in zip(THRESHOLDS, shares_below(values).tolist(), strict=True):
                rows.append((name, label, of, len(values), threshold, share))
    return Table("Share of labels", ("run", "label", "of", "n", "under", "share"), rows)


def _parts(collected: Collected) -> list[tuple[str, str, Float[np.ndarray, "n"]]]:
    """Lists all counted labels: the name of the label, its group (positives or best), and the values."""
    return [
        (label, of, values)
        for of, labels in (("positives", collected.labels), ("best", collected.best))
        for label, values in sorted(labels.items())
    ]


def plot_labels(runs: Mapping[str, Collected], path: Path) -> None:
    """Draws for each run: labels of positives, best labels of ground-truth boxes, and these by box size."""
    figure = new_figure(12, 4.1 * len(runs) + 0.3)
    axes = figure.subplots(len(runs), 3, squeeze=False)
    for row, (name, collected) in zip(axes, runs.items(), strict=True):
        _histogram(row[0], collected.labels)
        row[0].set_title(
            f"{shortened(name)}\n{len(collected.labels['centerness'])} positives",
            fontsize=11,
            parse_math=False,
        )
        _cumulative(row[1], collected.best)
        row[1].set_title(
            f"{shortened(name)}\n{len(collected.sizes)} ground-truth boxes", fontsize=11, parse_math=False
        )
        _by_size(row[2], collected)
        row[2].set_title(f"{shortened(name)}\nsmall and large boxes", fontsize=11, parse_math=False)
        for axis in row:
            tidy(axis)
    known = sorted({label for collected in runs.values() for label in collected.labels})
    handles = [Patch(color=COLORS[label], label=label) for label in known]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(known), frameon=False)
    save_figure(figure, path)


def _histogram(axis: Axes, labels: dict[str, Float[np.ndarray, "n"]]) -> None:
    edges = np.linspace(0, 1, 21).tolist()
    for label, values in sorted(labels.items()):
        share = np.full(len(values), 1 / max(len(values), 1))
        axis.hist(values, edges, weights=share, color=COLORS[label], alpha=0.25)
        axis.hist(values, edges, weights=share, color=COLORS[label], histtype="step", linewidth=1.5)
    axis.set_xlabel("label of a positive")
    axis.set_ylabel("share of positives")
    axis.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))  # whole percentages
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, 1)


def _cumulative(axis: Axes, best: dict[str, Float[np.ndarray, "n"]]) -> None:
    for label, values in sorted(best.items()):
        axis.plot(THRESHOLDS, shares_below(values), color=COLORS[label], marker="o")
    axis.set_xlabel("threshold")
    axis.set_ylabel("ground-truth boxes with best label below")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, 1)
    axis.set_xticks(THRESHOLDS)
    axis.set_ylim(0, 1)


def _by_size(axis: Axes, collected: Collected) -> None:
    chosen = np.random.default_rng(0).permutation(len(collected.sizes))[:MOST_POINTS]
    for label, values in sorted(collected.best.items()):
        x, y, color = collected.sizes[chosen], values[chosen], COLORS[label]
        axis.scatter(x, y, s=10, color=color, alpha=0.5, linewidths=0, clip_on=False)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlabel("square root of the box's area, pixels")
    axis.set_ylabel("best label of a ground-truth box")
    axis.set_ylim(0, 1)
