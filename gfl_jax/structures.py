"""The arrays that pass from one part to the next: batches, head outputs, detections.

Conventions used everywhere: boxes are (x1, y1, x2, y2) in pixels, half-open (no +1 in
widths), x to the right, y down; sizes are (height, width); labels count from 0.
"""

from typing import NamedTuple

import flax.struct
from jaxtyping import Array, Bool, Float, Int, UInt8

SIZE_DIVISOR = 32  # heights and widths of network inputs are multiples of this


@flax.struct.dataclass
class Images:
    """Images of one shape: all that inference needs; numpy on the host, jax on the device."""

    # RGB, zeros beyond the image size; in blocks (see `pixel_blocks`) it is batch height/4 width/4 48
    images: UInt8[Array, "batch height width 3"]
    image_sizes: Int[Array, "batch 2"]  # (height, width) of the resized image
    scale_factors: Float[Array, "batch 2"]  # (x, y): resized over original
    indices: Int[Array, "batch"]  # position in the source; -1 for a filler picture


@flax.struct.dataclass
class Batch(Images):
    """Images of one shape with their true boxes."""

    boxes: Float[Array, "batch boxes 4"]  # pixels of the resized picture
    labels: Int[Array, "batch boxes"]
    box_mask: Bool[Array, "batch boxes"]  # False for padding


class HeadOutputs(NamedTuple):
    """What the network says, level by level, finest first; float32 or wider."""

    # With several anchors at a location, the channels are those of the first anchor, the second, ...
    class_logits: tuple[Float[Array, "batch h w classes"], ...]
    box: tuple[Float[Array, "batch h w sides_times_parameters"], ...]  # left, top, right, bottom
    quality: tuple[Float[Array, "batch h w 1"], ...]  # logits; empty where there is no branch


@flax.struct.dataclass
class Detections:
    """A fixed number of detections of each picture, best first."""

    boxes: Float[Array, "batch detections 4"]
    scores: Float[Array, "batch detections"]
    labels: Int[Array, "batch detections"]
    mask: Bool[Array, "batch detections"]  # False for padding
