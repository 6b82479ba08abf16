"""Draws the ground truth (found or missed) beside the detections (right or wrong)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask
from jaxtyping import Bool, Float, Int

from gfl_jax.drawing.canvas import (
    Boxes,
    Color,
    Image,
    enlarged,
    enlargement,
    header,
    is_crowded,
    paint_boxes,
    paint_tags,
    style_of,
)
from gfl_jax.drawing.detections import tag_texts, visible

# Color-blind readers can distinguish these colors, also from leaves, earth and roads.
RIGHT: Color = (60, 220, 255)
MISSED: Color = (255, 205, 0)
WRONG: Color = (255, 50, 140)


class Matches(NamedTuple):
    """Which boxes are matched."""

    found: Bool[np.ndarray, " truth"]
    right: Bool[np.ndarray, " detections"]


def match(
    truth_boxes: Boxes,
    boxes: Boxes,
    truth_labels: Int[np.ndarray, " truth"] | None = None,
    labels: Int[np.ndarray, " detections"] | None = None,
    iou_threshold: float = 0.5,
) -> Matches:
    """Matches each detection, best first, with the free ground-truth box of its class that it overlaps most.

    Args:
      truth_boxes: ground-truth boxes (x1, y1, x2, y2).
      boxes: boxes of the detections, best first.
      truth_labels: classes of the ground truth; unless both labels are given, classes are ignored.
      labels: classes of the detections.
      iou_threshold: the smallest IoU of a match.
    """
    found, right = np.zeros(len(truth_boxes), bool), np.zeros(len(boxes), bool)
    if not len(truth_boxes) or not len(boxes):
        return Matches(found, right)
    overlaps = pycocotools.mask.iou(_xywh(boxes), _xywh(truth_boxes), [0] * len(truth_boxes))
    if labels is not None and truth_labels is not None:
        overlaps = np.where(np.equal.outer(labels, truth_labels), overlaps, 0)
    for i, row in enumerate(overlaps):
        best = int(np.argmax(np.where(found, 0, row)))
        if not found[best] and row[best] >= iou_threshold:
            found[best] = right[i] = True
    return Matches(found, right)


def draw_comparison(
    image: Image,
    truth_boxes: Boxes,
    boxes: Boxes,
    scores: Float[np.ndarray, " n"],
    truth_labels: Int[np.ndarray, " m"] | None = None,
    labels: Int[np.ndarray, " n"] | None = None,
    names: Sequence[str] | None = None,
    iou_threshold: float = 0.5,
    min_score: float = 0.3,
) -> Image:
    """Draws the ground truth, found or missed, beside the detections, right or wrong.

    Args:
      image: RGB; it is not changed.
      truth_boxes: ground-truth boxes (x1, y1, x2, y2) in pixels of the image.
      boxes: boxes of the detections, in the same form.
      scores: scores of the detections, between 0 and 1.
      truth_labels: classes of the ground truth, counted from 0.
      labels: classes of the detections.
      names: names of the classes.
      iou_threshold: the smallest IoU of a right detection with a ground-truth box.
      min_score: detections with a lower score are ignored.

    Returns:
      Two panels side by side (one above the other for a wide image), each with a legend on top. If both sides
      of the image are below 640 pixels, it is enlarged by a whole factor.
    """
    factor = enlargement(image)
    shown, all_true = visible(boxes, scores, min_score), visible(truth_boxes, None, 0)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)[shown] * factor
    truth_boxes = np.asarray(truth_boxes, np.float64).reshape(-1, 4)[all_true] * factor
    scores = np.asarray(scores)[shown]
    labels = None if labels is None else np.asarray(labels)[shown]
    truth_labels = None if truth_labels is None else np.asarray(truth_labels)[all_true]
    found, right = match(truth_boxes, boxes, truth_labels, labels, iou_threshold)

    canvas = enlarged(image, factor)
    truth_texts = [] if truth_labels is None else tag_texts(truth_labels, None, names)
    left = _panel(
        canvas,
        truth_boxes,
        truth_texts,
        found,
        f"Ground truth: {len(found)}",
        [(RIGHT, f"found {found.sum()} (IoU >= {iou_threshold:g})"), (MISSED, f"missed {(~found).sum()}")],
    )
    right_panel = _panel(
        canvas,
        boxes,
        tag_texts(labels, scores, names),
        right,
        f"Detections: {len(right)} with score >= {min_score:g}",
        [(RIGHT, f"right {right.sum()}"), (WRONG, f"wrong {(~right).sum()}")],
    )
    axis = 0 if canvas.shape[1] > 1.6 * canvas.shape[0] else 1
    gap_shape = list(left.shape)
    gap_shape[axis] = max(4, canvas.shape[1] // 200)
    return np.concatenate([left, np.full(gap_shape, 255, np.uint8), right_panel], axis=axis)


def _panel(
    image: Image,
    boxes: Boxes,
    texts: Sequence[str],
    good: Bool[np.ndarray, " n"],
    title: str,
    legend: Sequence[tuple[Color, str]],
) -> Image:
    """Draws boxes in two colors on an image, below a line with the title and the legend."""
    canvas, style = image.copy(), style_of(image, boxes)
    order = np.argsort(good, kind="stable")  # bad boxes on top
    boxes = boxes[order]
    colors = [legend[0][0] if is_good else legend[1][0] for is_good in good[order].tolist()]
    paint_boxes(canvas, boxes, colors, style)
    if texts and not is_crowded(boxes, style):
        paint_tags(canvas, boxes, [texts[i] for i in order], colors, style)
    return np.concatenate([header(canvas, title, legend), canvas])


def _xywh(boxes: Boxes) -> Float[np.ndarray, "n 4"]:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
