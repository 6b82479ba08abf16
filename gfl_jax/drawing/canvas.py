"""Paints boxes and text on images, with sizes in proportion to the image.

Small images are first enlarged by a whole factor, because lines and letters cannot be thinner than a pixel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Color = tuple[int, int, int]  # red, green, blue
Image = UInt8[np.ndarray, "height width 3"]
Boxes = Float[np.ndarray, "n 4"]

BLACK: Color = (20, 20, 20)
WHITE: Color = (255, 255, 255)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPITAL = 21  # height of a capital letter at font scale 1, in pixels
_MIN_LONG_SIDE = 640  # pixels; smaller images are enlarged


class Style(NamedTuple):
    """Sizes on a canvas, in pixels except for the font scale."""

    line: int
    font_scale: float
    text_height: int
    pad: int  # around text


def enlargement(image: Image) -> int:
    """The whole factor by which an image is enlarged before painting."""
    return -(-_MIN_LONG_SIDE // max(image.shape[:2]))


def enlarged(image: Image, factor: int) -> Image:
    """A copy of an image, `factor` times as large."""
    if factor == 1:
        return np.array(image, order="C")
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def style_of(canvas: Image, boxes: Boxes) -> Style:
    """Chooses lines and letters in proportion to the canvas; small boxes get thinner lines."""
    diagonal = float(np.hypot(*canvas.shape[:2]))
    line = max(1, round(diagonal / 500))
    if len(boxes):
        line = min(line, max(1, round(_median_side(boxes) / 16)))
    return Style(line, *_font(max(0.45, diagonal / 2300)))


def header(canvas: Image, title: str, legend: Sequence[tuple[Color, str]]) -> Image:
    """Makes a white strip to put above a canvas, with a title and a legend of the colors.

    Its letters are large, because a drawing of two panels is usually shown much smaller.
    """
    height, width = canvas.shape[:2]
    for share in (1000, 1300, 1700, 2300):  # smaller letters until the text fits
        style = Style(0, *_font(max(0.3, min(width, 1.6 * height) / share)))
        widths = [text_width(text, style) for text in (title, *(text for _, text in legend))]
        if sum(widths) + (4 * len(legend) + 1) * style.text_height <= width:
            break
    space = style.text_height
    strip = np.full((2 * space, width, 3), WHITE, np.uint8)
    x = space // 2
    paint_text(strip, title, (x, 0), 2 * space, style, BLACK)
    x += widths[0] + 2 * space
    for (color, text), length in zip(legend, widths[1:], strict=True):
        cv2.rectangle(strip, (x, space // 2), (x + space, 3 * space // 2), color, cv2.FILLED)
        paint_text(strip, text, (x + space + space // 2, 0), 2 * space, style, BLACK)
        x += length + 3 * space
    return strip


def is_crowded(boxes: Boxes, style: Style) -> bool:
    """Whether there are too many or too small boxes for text beside them."""
    return len(boxes) > 0 and (len(boxes) > 100 or _median_side(boxes) < 3 * style.text_height)


def paint_boxes(canvas: Image, boxes: Boxes, colors: Sequence[Color], style: Style) -> None:
    """Paints the outlines of boxes, the first box on top."""
    limit = 2 * max(canvas.shape)  # nothing is visible beyond it, and coordinates stay small integers
    corners = np.clip(boxes, -limit, limit).round().astype(int).tolist()
    for (x1, y1, x2, y2), color in reversed(list(zip(corners, colors, strict=True))):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, style.line)


def paint_tags(
    canvas: Image, boxes: Boxes, texts: Sequence[str], colors: Sequence[Color], style: Style
) -> None:
    """Paints a text at each box, in order, if there is space for it that no other text covers."""
    height, width = canvas.shape[:2]
    taken: list[tuple[int, int, int, int]] = []
    for (x1, y1, _, y2), text, color in zip(boxes.tolist(), texts, colors, strict=True):
        w, h = text_width(text, style) + 2 * style.pad, style.text_height + style.pad
        left = max(min(round(x1 - style.line / 2), width - w), 0)
        for top in (round(y1) - h, round(y1), round(y2)):  # above, inside, below
            tag = (left, top, left + w, top + h)
            if top >= 0 and top + h <= height and not any(_overlap(tag, other) for other in taken):
                taken.append(tag)
                cv2.rectangle(canvas, tag[:2], (tag[2] - 1, tag[3] - 1), color, cv2.FILLED)
                paint_text(canvas, text, (left + style.pad, top), h, style, readable_on(color))
                break


def paint_text(
    canvas: Image, text: str, corner: tuple[int, int], height: int, style: Style, color: Color
) -> None:
    """Paints a line of text from the upper left `corner`, centered in a row of the given height."""
    baseline = corner[1] + round((height + _CAPITAL * style.font_scale) / 2)
    thickness = max(1, round(style.font_scale * 1.2))
    cv2.putText(canvas, text, (corner[0], baseline), _FONT, style.font_scale, color, thickness, cv2.LINE_AA)


def text_width(text: str, style: Style) -> int:
    """The width of a text in pixels."""
    return int(cv2.getTextSize(text, _FONT, style.font_scale, 1)[0][0])


def readable_on(color: Color) -> Color:
    """Black or white, whichever has more contrast to a color."""
    return BLACK if np.dot(color, (0.299, 0.587, 0.114)) > 140 else WHITE


def _median_side(boxes: Boxes) -> float:
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return float(np.median(np.sqrt(sizes.prod(axis=1))))


def _font(scale: float) -> tuple[float, int, int]:
    """The font scale, the height of a line of text, and the padding around it."""
    return scale, round(24 * scale), round(10 * scale)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
