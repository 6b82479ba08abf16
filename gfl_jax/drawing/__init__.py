"""Draws boxes, comparisons with the ground truth, and the curves of a run."""

from gfl_jax.drawing.curves import plot_losses
from gfl_jax.drawing.detections import draw_boxes
from gfl_jax.drawing.png import save_png
from gfl_jax.drawing.side_by_side import draw_comparison

__all__ = ["draw_boxes", "draw_comparison", "plot_losses", "save_png"]
