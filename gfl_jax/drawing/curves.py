"""Plots the curves of a training run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils.epath import Path
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gfl_jax.console.plain import shortened
from gfl_jax.drawing.figure import COLORS, new_figure, save_figure, tidy
from gfl_jax.errors import UserError

Series = dict[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]  # (steps, values) by key


def plot_losses(rows: Sequence[Mapping[str, Any]], path: str | Path, title: str = "") -> None:
    """Plots the losses, the AP (if it was measured) and the learning rate against the steps.

    Args:
      rows: rows of the run's metrics, each with a "step". These keys are plotted: those that start with
        "loss", those whose last part (after "/") is "AP", "AP50" or "AP75", and "learning_rate".
      path: path of the figure; its ending (.png, .svg, .pdf) sets the format.
      title: title above the figure.

    Raises:
      UserError: no row has a loss.
    """
    losses = _series(rows, lambda key: key.startswith("loss"))
    if not losses:
        raise UserError(f"{path}: no row of the metrics has a step and a loss; there is nothing to draw")
    metrics = _series(rows, lambda key: key.rsplit("/", 1)[-1] in ("AP", "AP50", "AP75"))
    rates = _series(rows, lambda key: key == "learning_rate")
    panels = [("loss", losses, 3.0), ("AP", metrics, 2.0), ("learning rate", rates, 1.0)]
    panels = [panel for panel in panels if panel[1]]

    heights = [height for *_, height in panels]
    figure = new_figure(8, 1.1 * sum(heights) + 0.9)
    figure.suptitle(shortened(title, 80), parse_math=False)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (label, series, _) in zip(axes, panels, strict=True):
        _plot(axis, series, smooth=label == "loss", markers=label == "AP")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("step")
    axes[-1].set_xlim(left=0)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    save_figure(figure, path)


def _series(rows: Sequence[Mapping[str, Any]], wanted: Callable[[str], bool]) -> Series:
    """The finite values of each wanted key, with their steps in order."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if wanted(key) and "step" in row and value is not None and np.isfinite(value):
                points.setdefault(key, []).append((row["step"], value))
    return {key: tuple(np.array(sorted(pairs), float).T) for key, pairs in points.items()}


def _plot(axis: Axes, series: Series, smooth: bool, markers: bool) -> None:
    """Plots lines with a legend; `smooth` makes long lines pale and adds their running means."""
    for (key, (steps, values)), color in zip(series.items(), COLORS * len(series), strict=False):
        window = len(values) // 50 if smooth else 1
        if window > 2:
            axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            values = _running_mean(values, window)
        axis.plot(steps, values, color=color, label=key.removeprefix("loss/"), marker="o" if markers else "")
    if len(series) > 1:  # above the axes, so it hides no line
        axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=6, borderaxespad=0)
    tidy(axis)
    axis.margins(x=0.01)


def _running_mean(values: Float[np.ndarray, " n"], window: int) -> Float[np.ndarray, " n"]:
    """The mean of the `window` values around each value, or of fewer values at both ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
