"""The arrays that are passed between the parts: batches, head outputs and detections.

Conventions: boxes are (x1, y1, x2, y2) in pixels, half-open (no +1 in widths), with x to the right and y
down. Sizes are (height, width). Labels count from 0.
"""

from typing import NamedTuple

import flax.struct
from jaxtyping import Array, Bool, Float, Int, UInt8

SIZE_DIVISOR = 32  # heights and widths of network inputs are multiples of this


@flax.struct.dataclass
class Images:
    """A batch of images of one shape, the input of inference; numpy on the host, jax on the device."""

    # RGB, zeros beyond the image size. In blocks (see `pixel_blocks`): batch height/8 width/4 96.
    images: UInt8[Array, "batch height width 3"]
    image_sizes: Int[Array, "batch 2"]  # (height, width) of the resized image
    scale_factors: Float[Array, "batch 2"]  # (x, y): resized size over original size
    indices: Int[Array, "batch"]  # position in the source; -1 for a filler


@flax.struct.dataclass
class Batch(Images):
    """Images of one shape with their ground truth."""

    boxes: Float[Array, "batch boxes 4"]  # pixels of the resized image
    labels: Int[Array, "batch boxes"]
    box_mask: Bool[Array, "batch boxes"]  # False for padding


class HeadOutputs(NamedTuple):
    """The outputs of the network for each level, finest level first; float32 or wider."""

    # With several anchors at a location, the channels of the first anchor come first, then the second, ...
    class_logits: tuple[Float[Array, "batch h w classes"], ...]
    box: tuple[Float[Array, "batch h w sides_times_parameters"], ...]  # left, top, right, bottom
    quality: tuple[Float[Array, "batch h w 1"], ...]  # logits; empty without this branch


@flax.struct.dataclass
class Detections:
    """A fixed number of detections for each image, best first."""

    boxes: Float[Array, "batch detections 4"]
    scores: Float[Array, "batch detections"]
    labels: Int[Array, "batch detections"]
    mask: Bool[Array, "batch detections"]  # False for padding
