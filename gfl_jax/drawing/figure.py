"""What every matplotlib figure here has in common: its colours, its canvas, and how it is written."""

import io
import warnings
from typing import Literal

from etils.epath import Path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gfl_jax.files import write_file

# Okabe and Ito's colours, which differ for colour-blind readers too.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY = COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
)  # fmt: skip


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure, sizes in inches, that needs no window; constrained: it makes room for all text."""
    figure = Figure(figsize=(width, height), layout=layout, dpi=150)
    FigureCanvasAgg(figure)
    return figure


def tidy(axis: Axes) -> None:
    """A light grid, and no frame at the top and on the right."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure whole or not at all; the ending (.png, .svg, .pdf) says the format."""
    data = io.BytesIO()
    with warnings.catch_warnings():  # of letters that its font lacks: it draws frames instead
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(data, format=Path(path).suffix.lstrip(".") or "png")
    write_file(path, data.getvalue())
