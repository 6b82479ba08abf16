"""The shared style of all matplotlib figures, and how they are saved."""

import io
import warnings
from typing import Literal

from etils.epath import Path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gfl_jax.files import write_file

# The palette of Okabe and Ito, which color-blind readers can distinguish.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY = COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
)  # fmt: skip


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Makes an empty figure without a window, sizes in inches; "constrained" makes room for all text."""
    figure = Figure(figsize=(width, height), layout=layout, dpi=150)
    FigureCanvasAgg(figure)
    return figure


def tidy(axis: Axes) -> None:
    """Adds a light grid and removes the frame at the top and on the right."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure completely or not at all; the ending (.png, .svg, .pdf) sets the format."""
    data = io.BytesIO()
    with warnings.catch_warnings():  # matplotlib draws boxes for letters that its font lacks
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(data, format=Path(path).suffix.lstrip(".") or "png")
    write_file(path, data.getvalue())
