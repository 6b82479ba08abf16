"""The views of a picture whose detections testing merges: in several sizes, mirrored or not.

Scales are relative to the size that `config.resize` gives: the one way that serves data sets
that are resized and those that keep their size. Each scale has canvases of its own, the scaled
buckets, so that the shapes, and with them the compilations, are as few as scales times buckets.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from gfl_jax.config import Inference
from gfl_jax.errors import UserError
from gfl_jax.structures import SIZE_DIVISOR


class View(NamedTuple):
    """One way to show a picture."""

    scale: float = 1.0  # of both sides
    flip: bool = False  # mirrored left to right


PLAIN = View()


def views_of(inference: Inference) -> tuple[View, ...]:
    """The views that a config asks for: each of its scales, and each mirrored too if it says so.

    Raises:
      UserError: there are no scales.
    """
    scales = inference.test_scales
    if not scales:
        raise UserError(
            "config.inference.test_scales=(): must have a scale; (1.0,) is the size of the config"
        )
    return tuple(
        View(s, flip) for s in scales for flip in ((False, True) if inference.test_flip else (False,))
    )


def view_sizes(sizes: Int[np.ndarray, "n 2"], scale: float) -> Int[np.ndarray, "n 2"]:
    """Scaled sizes in whole pixels, rounded half up as in the resize."""
    return np.maximum(np.floor(np.asarray(sizes) * scale + 0.5), 1).astype(np.int32)


def view_canvas(canvas: tuple[int, int], scale: float) -> tuple[int, int]:
    """The canvas, fit for the network, of what has `canvas` at scale 1: whatever fits there fits here."""
    if scale == 1:
        return canvas
    height, width = (-(-view_sizes(np.array([canvas]), scale)[0] // SIZE_DIVISOR) * SIZE_DIVISOR).tolist()
    return height, width
