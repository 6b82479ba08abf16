"""Draws boxes on an image, colored by class with names, or colored by score if there are many."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int

from gfl_jax.console.plain import shortened
from gfl_jax.drawing.canvas import (
    BLACK,
    WHITE,
    Boxes,
    Color,
    Image,
    Style,
    enlarged,
    enlargement,
    is_crowded,
    paint_boxes,
    paint_tags,
    paint_text,
    style_of,
    text_width,
)


def draw_boxes(
    image: Image,
    boxes: Boxes,
    labels: Int[np.ndarray, " n"] | None = None,
    scores: Float[np.ndarray, " n"] | None = None,
    names: Sequence[str] | None = None,
    min_score: float = 0.0,
) -> Image:
    """Draws boxes with their classes and scores.

    A few large boxes get the color of their class, and the name of the class and the score as text. Many or
    small boxes get no text. If they have scores, their colors show the scores, and a bar in the corner
    explains the colors.

    Args:
      image: RGB; it is not changed.
      boxes: (x1, y1, x2, y2) in pixels of the image.
      labels: classes, counted from 0.
      scores: between 0 and 1; the best boxes are drawn on top.
      names: names of the classes.
      min_score: boxes with a lower score are left out.

    Returns:
      The drawing; if both sides of the image are below 640 pixels, it is enlarged by a whole factor.
    """
    shown = visible(boxes, scores, min_score)
    factor = enlargement(image)
    canvas = enlarged(image, factor)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)[shown] * factor
    labels = None if labels is None else np.asarray(labels)[shown]
    scores = None if scores is None else np.asarray(scores, np.float64)[shown]
    style = style_of(canvas, boxes)
    if is_crowded(boxes, style) and scores is not None:
        paint_boxes(canvas, boxes, [score_color(score) for score in scores.tolist()], style)
        _paint_score_bar(canvas, style)
    else:
        kinds = [0] * len(boxes) if labels is None else labels.tolist()
        colors = [class_color(label) for label in kinds]
        paint_boxes(canvas, boxes, colors, style)
        if not is_crowded(boxes, style) and not (labels is None and scores is None):
            paint_tags(canvas, boxes, tag_texts(labels, scores, names), colors, style)
    return canvas


def visible(boxes: Boxes, scores: Float[np.ndarray, " n"] | None, min_score: float) -> Int[np.ndarray, " m"]:
    """The indices of finite boxes with scores of at least `min_score`, best first."""
    finite = np.isfinite(np.asarray(boxes, np.float64).reshape(-1, 4)).all(axis=1)
    if scores is None:
        return np.flatnonzero(finite)
    order = np.argsort(-np.asarray(scores), kind="stable")
    return order[(finite & (np.asarray(scores) >= min_score))[order]]


def tag_texts(
    labels: Int[np.ndarray, " n"] | None,
    scores: Float[np.ndarray, " n"] | None,
    names: Sequence[str] | None,
) -> list[str]:
    """Makes a text for each box: its class, its score, or both."""
    columns: list[list[str]] = []
    if labels is not None:
        shown = {
            label: str(label) if names is None else shortened(names[label]) for label in set(labels.tolist())
        }
        columns.append([shown[label] for label in labels.tolist()])
    if scores is not None:
        columns.append([f"{score:.2f}" for score in scores.tolist()])
    return [" ".join(words) for words in zip(*columns, strict=True)]


def class_color(label: int) -> Color:
    """A bright color for a class, the same in every image; consecutive classes differ clearly."""
    hue = (0.08 + label * 0.618034) % 1  # with golden-ratio steps, nearby labels get distant hues
    saturation, value = ((0.95, 1.0), (0.55, 1.0), (0.9, 0.7))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def score_color(score: float) -> Color:
    """A color between cyan (score 0) and magenta (score 1), which are rare in natural images."""
    share = min(max(score, 0.0), 1.0)
    return round(255 * share), round(255 * (1 - share)), 255


def _paint_score_bar(canvas: Image, style: Style) -> None:
    """Paints a legend of the score colors in the lower left corner."""
    space, height = 2 * style.pad, style.text_height + 2 * style.pad
    left_text, right_text, length = "score 0", "1", 8 * style.text_height
    left_width, right_width = text_width(left_text, style), text_width(right_text, style)
    x, y = style.pad, canvas.shape[0] - height - style.pad
    corner = (x + left_width + length + right_width + 4 * space, y + height)
    cv2.rectangle(canvas, (x, y), corner, BLACK, cv2.FILLED)
    paint_text(canvas, left_text, (x + space, y), height, style, WHITE)
    x += left_width + 2 * space
    for i in range(length):
        top, bottom = (x + i, y + style.pad), (x + i, y + height - style.pad)
        cv2.line(canvas, top, bottom, score_color(i / (length - 1)))
    paint_text(canvas, right_text, (x + length + space, y), height, style, WHITE)
