"""Pictures for people: boxes, comparisons with the ground truth, and curves of a run."""

from gfl_jax.pictures.boxes import draw_boxes
from gfl_jax.pictures.comparison import draw_comparison
from gfl_jax.pictures.files import save_png
from gfl_jax.pictures.plots import plot_losses

__all__ = ["draw_boxes", "draw_comparison", "plot_losses", "save_png"]
