"""Draws learned distributions of box sides beside the images (GFL fig. 3)."""

from collections.abc import Callable

import numpy as np
from etils.epath import Path
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from gfl_jax.analysis.collect import CollectedDetections
from gfl_jax.analysis.distributions import bin_pixels
from gfl_jax.console.plain import shortened
from gfl_jax.data.source import Example
from gfl_jax.drawing.figure import BLUE, ORANGE, SKY, VERMILION, new_figure, save_figure, tidy

COLUMNS = 3
# All lengths are in inches.
IMAGE_SIDE, BARS, GAP = 2.6, 0.8, 0.08  # the image, the bars beside it, the gap between them
WIDTH, HEIGHT = 4.3, 4.4  # of a panel with its title and ticks
LEFT, TOP = 0.7, 0.4  # from the edge of the panel to the image
TITLE, LEGEND = 0.35, 0.25  # the title above all panels, and each line of the legend below them
SHOWN = 0.02  # bins with a lower probability may lie outside of the window

Window = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


def plot_distributions(
    detections: CollectedDetections,
    groups: dict[str, Int[np.ndarray, "chosen"]],
    values: Float[np.ndarray, "bins"],
    example: Callable[[int], Example],
    path: Path,
    title: str = "",
) -> None:
    """Draws each chosen box on its image, with the bins of its sides at the pixels where they lie.

    Args:
      detections: from `collect`.
      groups: indices of the chosen detections, by the name of their group.
      values: the bins' distances in strides.
      example: returns the image at a position of the source, with its ground-truth boxes.
      path: of the figure.
      title: of the figure.
    """
    chosen = [(group, i) for group, indices in groups.items() for i in indices.tolist()]
    columns = min(len(chosen), COLUMNS)
    rows = -(-len(chosen) // columns)
    legend_columns = 2 if columns == 1 else 5
    width, height = WIDTH * columns, TITLE + HEIGHT * rows + LEGEND * (1 + 5 // legend_columns)
    figure = new_figure(width, height, layout=None)
    figure.suptitle(shortened(title, 80), parse_math=False, y=1 - 0.1 / height, va="top")
    highest = max(float(detections.probabilities[i].max()) for _, i in chosen)
    for number, (group, i) in enumerate(chosen):
        row, column = divmod(number, columns)
        left, top = WIDTH * column + LEFT, TITLE + HEIGHT * row + TOP
        corner = (left / width, 1 - (top + IMAGE_SIDE) / height)
        axis = figure.add_axes((*corner, IMAGE_SIDE / width, IMAGE_SIDE / height))
        axis.set_title(
            f"{group} {i}: score {detections.scores[i]:.2f}, IoU {detections.iou[i]:.2f}", fontsize=11
        )
        pixels = bin_pixels(detections, i, values)
        window = _window(detections, i, pixels)
        _draw_image(axis, example(int(detections.images[i])), detections, i, window)
        _draw_bars(axis, detections.probabilities[i], pixels, detections.boxes[i], window, 1.08 * highest)
    handles = [
        Line2D([], [], color=SKY, linewidth=2, label="predicted box"),
        Line2D([], [], color=ORANGE, linewidth=1.5, linestyle="--", label="ground truth"),
        Line2D([], [], color="white", marker="P", linestyle="", markeredgecolor="black", label="location"),
        Patch(color=BLUE, label="left, top"),
        Patch(color=VERMILION, label="right, bottom"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=legend_columns, frameon=False)
    save_figure(figure, path)


def _window(detections: CollectedDetections, i: int, pixels: Float[np.ndarray, "4 bins"]) -> Window:
    """Returns a square around the box and its likely bins, with a margin."""
    x1, y1, x2, y2 = detections.boxes[i].tolist()
    likely = detections.probabilities[i] >= SHOWN
    xs = np.concatenate([pixels[0][likely[0]], pixels[2][likely[2]], [x1, x2]])
    ys = np.concatenate([pixels[1][likely[1]], pixels[3][likely[3]], [y1, y2]])
    middle_x, middle_y = (xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2
    half = 0.6 * max(np.ptp(xs), np.ptp(ys), 8.0)
    return middle_x - half, middle_y - half, middle_x + half, middle_y + half


def _draw_image(axis: Axes, shown: Example, detections: CollectedDetections, i: int, window: Window) -> None:
    height, width = shown.image.shape[:2]
    left, top = max(int(window[0]), 0), max(int(window[1]), 0)
    right, bottom = min(int(window[2]) + 1, width), min(int(window[3]) + 1, height)
    axis.set_facecolor("0.9")
    axis.imshow(
        shown.image[top:bottom, left:right], extent=(left, right, bottom, top), interpolation="bicubic"
    )
    for box in shown.boxes[~shown.is_crowd]:
        _outline(axis, box, ORANGE, 1.5, "--")
    _outline(axis, detections.boxes[i], SKY, 2, "-")
    axis.plot(*detections.points[i], marker="P", color="white", markeredgecolor="black", markersize=7)
    axis.set_xlim(window[0], window[2])
    axis.set_ylim(window[3], window[1])
    axis.tick_params(labelbottom=False, bottom=False)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _outline(axis: Axes, box: Float[np.ndarray, "4"], color: str, width: float, style: str) -> None:
    x1, y1, x2, y2 = box.tolist()
    axis.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, linestyle=style)
    )


def _draw_bars(
    axis: Axes,
    probabilities: Float[np.ndarray, "4 bins"],
    pixels: Float[np.ndarray, "4 bins"],
    box: Float[np.ndarray, "4"],
    window: Window,
    limit: float,
) -> None:
    """Draws bars of the left and right side below the image, and of the top and bottom side beside it."""
    gap, size = GAP / IMAGE_SIDE, BARS / IMAGE_SIDE
    below = axis.inset_axes((0, -gap - size, 1, size))
    beside = axis.inset_axes((1 + gap, 0, size, 1))
    for side, color in enumerate((BLUE, BLUE, VERMILION, VERMILION)):
        thickness = 0.8 * abs(pixels[side, 1] - pixels[side, 0])
        if side % 2 == 0:
            below.bar(pixels[side], probabilities[side], thickness, color=color, alpha=0.8)
            below.axvline(box[side], color=SKY, linewidth=2)
        else:
            beside.barh(pixels[side], probabilities[side], thickness, color=color, alpha=0.8)
            beside.axhline(box[side], color=SKY, linewidth=2)
    below.set_xlim(window[0], window[2])
    below.set_ylim(0, limit)
    below.set_xlabel("pixels")
    below.set_ylabel("probability")
    below.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    beside.set_ylim(window[3], window[1])
    beside.set_xlim(0, limit)
    beside.tick_params(labelleft=False)
    for strip in (below, beside):
        tidy(strip)
    below.yaxis.set_major_locator(MaxNLocator(2))
    beside.xaxis.set_major_locator(MaxNLocator(2))
