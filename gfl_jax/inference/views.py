"""The views of an image whose detections are merged in testing: several scales, mirrored or not.

Scales are relative to the size that `config.resize` gives. This works for data sets that are resized and for
those that keep their size. Each scale has its own canvases, the scaled buckets. So the number of shapes, and
of compilations, is only the number of scales times the number of buckets.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from gfl_jax.config import Inference
from gfl_jax.errors import UserError
from gfl_jax.structures import SIZE_DIVISOR


class View(NamedTuple):
    """One way to show an image."""

    scale: float = 1.0  # of both sides
    flip: bool = False  # mirrored left to right


PLAIN = View()


def views_of(inference: Inference) -> tuple[View, ...]:
    """The views of a config: each scale, and also its mirror image if `test_flip` is set.

    Raises:
      UserError: there are no scales.
    """
    scales = inference.test_scales
    if not scales:
        raise UserError("config.inference.test_scales=(): must have a scale; (1.0,) is the plain image")
    return tuple(
        View(s, flip) for s in scales for flip in ((False, True) if inference.test_flip else (False,))
    )


def view_sizes(sizes: Int[np.ndarray, "n 2"], scale: float) -> Int[np.ndarray, "n 2"]:
    """Scaled sizes in whole pixels, rounded half up like those of the resize."""
    return np.maximum(np.floor(np.asarray(sizes) * scale + 0.5), 1).astype(np.int32)


def view_canvas(canvas: tuple[int, int], scale: float) -> tuple[int, int]:
    """The canvas of a scaled view, fit for the network: it has room for all images that fit in `canvas`."""
    if scale == 1:
        return canvas
    height, width = (-(-view_sizes(np.array([canvas]), scale)[0] // SIZE_DIVISOR) * SIZE_DIVISOR).tolist()
    return height, width
