"""Keep-ratio resize and horizontal flip of images and boxes, as in the reference (mmdetection)."""

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8


def resized_sizes(
    sizes: Int[np.ndarray, "n 2"], short_side: Int[np.ndarray, "n"] | int | None, long_side: int
) -> Int[np.ndarray, "n 2"]:
    """Image sizes after a resize of the short side to `short_side`, or to less if the long side is too long.

    Args:
      sizes: (height, width) of each image.
      short_side: new short side of each image, or of all images; None keeps the sizes.
      long_side: limit of the long side.

    Returns:
      (height, width) of each image; both sides are scaled by the same factor and rounded half up.
    """
    if short_side is None:
        return np.asarray(sizes, np.int32)
    wide = np.asarray(sizes, np.float64)
    factor = np.minimum(long_side / wide.max(axis=1), short_side / wide.min(axis=1))
    return np.maximum(np.floor(wide * factor[:, None] + 0.5), 1).astype(np.int32)


def resize_image(
    image: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Bilinear resize to `size` (height, width), without antialiasing, as in cv2 and the reference."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def scale_boxes(
    boxes: Float[np.ndarray, "n 4"], factors: Float[np.ndarray, "2"], size: tuple[int, int]
) -> Float[np.ndarray, "n 4"]:
    """Scales boxes by (x, y) factors and clips them to an image of `size` (height, width)."""
    scaled = boxes * np.tile(factors, 2).astype(np.float32)
    return np.clip(scaled, 0, np.array([size[1], size[0], size[1], size[0]], np.float32))


def flip_boxes(boxes: Float[np.ndarray, "n 4"], width: int) -> Float[np.ndarray, "n 4"]:
    """Mirrors boxes left to right in an image of this width."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def flip_image(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Mirrors an image left to right."""
    return cv2.flip(image, 1)
