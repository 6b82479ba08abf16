"""All boxes of a data set in flat arrays: small to send to a worker process, quick to filter.

The boxes of picture i are the rows `offsets[i]:offsets[i + 1]`.
"""

import dataclasses
import logging

import numpy as np
from jaxtyping import Bool, Float, Int

from gfl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What is known of the pictures of a data set without reading them."""

    sizes: Int[np.ndarray, "images 2"]  # (height, width)
    image_ids: Int[np.ndarray, "images"]
    file_names: tuple[str, ...]
    offsets: Int[np.ndarray, "images+1"]
    boxes: Float[np.ndarray, "boxes 4"]  # xyxy in pixels
    labels: Int[np.ndarray, "boxes"]
    is_crowd: Bool[np.ndarray, "boxes"]
    area: Float[np.ndarray, "boxes"]  # of the object's mask where there is one, in pixels

    @property
    def max_boxes(self) -> int:
        """The most boxes, crowds not counted, of any picture."""
        total = np.concatenate([[0], np.cumsum(~self.is_crowd)])
        return int(np.diff(total[self.offsets]).max(initial=0))

    def rows(self, i: int) -> slice:
        """The rows of picture i's boxes."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))


def no_annotations(
    sizes: Int[np.ndarray, "images 2"], image_ids: Int[np.ndarray, "images"], file_names: tuple[str, ...]
) -> Annotations:
    """Of images about whose boxes nothing is known."""
    return Annotations(
        sizes=np.asarray(sizes, np.int32).reshape(-1, 2),
        image_ids=np.asarray(image_ids, np.int64),
        file_names=file_names,
        offsets=np.zeros(len(file_names) + 1, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        is_crowd=np.zeros(0, bool),
        area=np.zeros(0, np.float64),
    )


def build_annotations(
    name: str,
    sizes: Int[np.ndarray, "images 2"],
    image_ids: Int[np.ndarray, "images"],
    file_names: tuple[str, ...],
    image_index: Int[np.ndarray, "raw"],
    boxes_xywh: Float[np.ndarray, "raw 4"],
    labels: Int[np.ndarray, "raw"],
    is_crowd: Bool[np.ndarray, "raw"],
    area: Float[np.ndarray, "raw"],
) -> Annotations:
    """Sorts boxes by picture, drops and reports the bad ones, and clips the others.

    A box is bad, as in mmdetection, if a coordinate is not finite, its width, height or
    area is too small (below 1, below 1, not above 0), or it lies outside its picture.

    Args:
      name: of the data set, for messages.
      sizes: (height, width) of each picture.
      image_ids: of each picture.
      file_names: of each picture.
      image_index: position of each box's picture.
      boxes_xywh: (x, y, width, height) in pixels, float64.
      labels: of each box.
      is_crowd: of each box.
      area: of each box; NaN where unknown: filled with width * height.

    Raises:
      UserError: no picture, or no good box, is there.
    """
    if len(sizes) == 0:
        raise UserError(f"{name}: has no pictures; check the file or the split")
    with np.errstate(invalid="ignore"):  # infinite coordinates
        area = np.where(np.isnan(area), boxes_xywh[:, 2] * boxes_xywh[:, 3], area)
        corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    limits = np.tile(sizes[image_index][:, ::-1], 2).astype(np.float64)
    clipped = np.clip(corners, 0, limits)
    not_finite = ~np.isfinite(boxes_xywh).all(axis=1)
    degenerate = ~not_finite & ((boxes_xywh[:, 2:] < 1).any(axis=1) | ~(area > 0))
    outside = ~not_finite & ~degenerate & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    good = ~(not_finite | degenerate | outside)
    if not good.all():
        logging.warning(
            "%s: dropped %d of %d boxes: %d not finite, %d degenerate, %d outside their picture",
            *(name, (~good).sum(), len(good), not_finite.sum(), degenerate.sum(), outside.sum()),
        )
    if not good.any():
        raise UserError(f"{name}: not one of its {len(good)} boxes is usable; check the annotations")
    order = np.flatnonzero(good)[np.argsort(image_index[good], kind="stable")]
    counts = np.bincount(image_index[order], minlength=len(sizes))
    return Annotations(
        sizes=sizes.astype(np.int32),
        image_ids=image_ids.astype(np.int64),
        file_names=file_names,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=clipped[order].astype(np.float32),
        labels=labels[order].astype(np.int32),
        is_crowd=is_crowd[order].astype(bool),
        area=area[order].astype(np.float64),
    )
