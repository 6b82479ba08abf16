"""Random crops, rotations and colors, which let a detector learn from very few images.

All random numbers of an example come from one generator. Only the cropped part of the image is resized, so a
crop of a large image costs no more than a crop of a small one.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gfl_jax.config import Crops
from gfl_jax.data.annotations import Annotations
from gfl_jax.data.transforms import flip_boxes, flip_image

Image = UInt8[np.ndarray, "height width 3"]
Boxes = Float[np.ndarray, "n 4"]


def random_crop(
    rng: np.random.Generator, image: Image, boxes: Boxes, crops: Crops, mirror: bool
) -> tuple[Image, Boxes, Bool[np.ndarray, "n"], Float[np.ndarray, "2"]]:
    """Draws one random view of an image.

    Args:
      rng: the generator of all random numbers.
      image: the whole image; it is not changed.
      boxes: xyxy in pixels of the image.
      crops: which changes are drawn, and how strong they are.
      mirror: whether to mirror the view too.

    Returns:
      The view, at most `crops.size` high and wide (smaller if the image is small); its boxes, clipped;
      which boxes to keep, namely those with at least `crops.min_visible` of their area inside the view;
      the (x, y) scale factors.
    """
    low, high = np.log(crops.scale)
    view, boxes, factors = _cut(rng, image, boxes, crops.size, float(np.exp(rng.uniform(low, high))))
    visible = _clip(boxes, view)
    keep = (_areas(visible) > 0) & (_areas(visible) >= crops.min_visible * _areas(boxes))
    if rng.random() < crops.stripes:
        view = paint_stripes(rng, view, visible)
    view, visible = rotate(view, visible, int(rng.integers(4)) if crops.quarter_turns else 0, mirror)
    if crops.color_jitter > 0:
        view = jitter_colors(rng, view, crops.color_jitter)
    return view, visible, keep, factors


def rotate(image: Image, boxes: Boxes, quarters: int, mirror: bool) -> tuple[Image, Boxes]:
    """Rotates image and boxes counterclockwise by quarter turns, then mirrors them left to right."""
    for _ in range(quarters):
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([y1, image.shape[1] - x2, y2, image.shape[1] - x1], axis=1)
        image = cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
    if mirror:
        return flip_image(image), flip_boxes(boxes, image.shape[1])
    return image, boxes


def jitter_colors(rng: np.random.Generator, image: Image, strength: float) -> Image:
    """Changes contrast, brightness, tint and saturation, each by a factor or shift of up to `strength`.

    The tint, a factor for each channel, models the color of the light and varies by half of `strength`. The
    saturation can fall three times as far as it can rise: images of another camera or season may be gray.
    """
    contrast = 1 + rng.uniform(-strength, strength)
    saturation = max(1 + rng.uniform(-3 * strength, strength), 0)
    brightness = 128 * rng.uniform(-strength, strength)
    tint = 1 + rng.uniform(-strength, strength, 3) / 2
    levels = np.arange(256)[:, None]
    curves = ((levels - 128) * contrast + 128 + brightness) * tint
    image = cv2.LUT(image, np.clip(np.rint(curves), 0, 255).astype(np.uint8)[None])
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, saturation, gray, 1 - saturation, 0)


def paint_stripes(rng: np.random.Generator, image: Image, boxes: Boxes) -> Image:
    """Paints one or two straight stripes of one color, like roads, behind the boxes.

    Pixels inside a box stay unchanged, so the objects stay visible.
    """
    height, width = image.shape[:2]
    stripes = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 3))):
        through = rng.uniform(0, (width, height))
        angle, thickness = rng.uniform(0, np.pi), int(rng.integers(8, 49))
        reach = (height + width) * np.array([np.cos(angle), np.sin(angle)])
        ends = np.rint([through - reach, through + reach]).astype(int).tolist()
        cv2.line(stripes, ends[0], ends[1], 255, thickness)
    for x1, y1, x2, y2 in boxes:
        stripes[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = 0
    color = rng.uniform(60, 230) + rng.uniform(-15, 15, 3)
    return np.where(stripes[:, :, None] > 0, np.clip(color, 0, 255).astype(np.uint8), image)


def max_boxes_of_crops(annotations: Annotations, crops: Crops) -> int:
    """An upper bound on the boxes of a crop: the most boxes that touch one window of the largest size.

    The bound keeps the arrays of a training batch small if an image has hundreds of boxes.
    """
    reach = int(np.ceil(crops.size / min(crops.scale))) + 1
    most = 0
    for i in range(len(annotations.sizes)):
        rows = annotations.rows(i)
        boxes = annotations.boxes[rows][~annotations.is_crowd[rows]]
        most = max(most, _most_in_window(boxes, annotations.sizes[i], reach))
    return most


def _most_in_window(boxes: Boxes, size: Int[np.ndarray, "2"], reach: int, cell: int = 4) -> int:
    """The most boxes that a square window touches; its upper left corner is on a grid of cells."""
    height, width = (size // cell + 2).tolist()
    change = np.zeros((height, width), np.int32)  # change of the number of touched boxes, in y and x
    low = np.maximum(np.floor((boxes[:, :2] - reach) / cell), 0).astype(int)
    high = np.floor(boxes[:, 2:] / cell).astype(int) + 1
    for ys, xs, sign in ((low, low, 1), (low, high, -1), (high, low, -1), (high, high, 1)):
        np.add.at(change, (ys[:, 1], xs[:, 0]), sign)
    return int(change.cumsum(axis=0).cumsum(axis=1).max(initial=0))


def _cut(
    rng: np.random.Generator, image: Image, boxes: Boxes, size: int, scale: float
) -> tuple[Image, Boxes, Float[np.ndarray, "2"]]:
    """Cuts out a random window and scales it to at most `size`; boxes move with it and are not clipped."""
    shape = np.array(image.shape[:2])
    side = max(round(size / scale), 1)  # of the window, if the image is large enough
    window = np.minimum(side, shape)
    y, x = rng.integers(0, shape - window, endpoint=True).tolist()
    height, width = np.maximum(np.rint(window * size / side), 1).astype(int).tolist()
    part = image[y : y + window[0], x : x + window[1]]
    view = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    factors = np.array([width / window[1], height / window[0]])
    moved = (boxes - np.array([x, y, x, y])) * np.tile(factors, 2)
    return view, moved.astype(np.float32), factors


def _clip(boxes: Boxes, image: Image) -> Boxes:
    height, width = image.shape[:2]
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def _areas(boxes: Boxes) -> Float[np.ndarray, "n"]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
