"""The annotations of a data set in flat arrays, which are small to send to workers and fast to filter.

The boxes of image i are the rows `offsets[i]:offsets[i + 1]`.
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from gfl_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The images of a data set and their boxes, without the pixels."""

    sizes: Int[np.ndarray, "images 2"]  # (height, width)
    image_ids: np.ndarray  # (images,) of Python int or str, so ids of any size stay exact
    file_names: tuple[str, ...]
    offsets: Int[np.ndarray, "images+1"]
    boxes: Float[np.ndarray, "boxes 4"]  # xyxy in pixels
    labels: Int[np.ndarray, "boxes"]
    is_crowd: Bool[np.ndarray, "boxes"]
    area: Float[np.ndarray, "boxes"]  # in pixels; the area of the mask, if the object has one
    annotated: Bool[np.ndarray, "images"]  # the image has an annotation; bad boxes and crowds count too
    fingerprints: Int[np.ndarray, "images"]  # of the image files; 0 if unknown

    @property
    def max_boxes(self) -> int:
        """The largest number of boxes in an image, crowds excluded."""
        total = np.concatenate([[0], np.cumsum(~self.is_crowd)])
        return int(np.diff(total[self.offsets]).max(initial=0))

    @property
    def image_index(self) -> Int[np.ndarray, "boxes"]:
        """The position of the image of each box."""
        return np.repeat(np.arange(len(self.sizes)), np.diff(self.offsets))

    def rows(self, i: int) -> slice:
        """The rows of the boxes of image i."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def take(self, positions: Int[np.ndarray, "chosen"]) -> "Annotations":
        """The annotations of some images, in the order of `positions`."""
        counts = np.diff(self.offsets)[positions]
        rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in positions]
        return dataclasses.replace(
            self.take_boxes(np.concatenate([np.zeros(0, int), *rows])),
            sizes=self.sizes[positions],
            image_ids=self.image_ids[positions],
            file_names=tuple(self.file_names[i] for i in positions),
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            annotated=self.annotated[positions],
            fingerprints=self.fingerprints[positions],
        )

    def take_boxes(self, rows: Int[np.ndarray, "boxes"]) -> "Annotations":
        """The same images with reordered boxes; the boxes of an image must stay together."""
        return dataclasses.replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            area=self.area[rows],
        )

    def relabelled(self, labels: Int[np.ndarray, "classes"]) -> "Annotations":
        """Replaces each label k by `labels[k]` and drops the boxes whose new label is -1."""
        new = labels[self.labels]
        kept = np.flatnonzero(new >= 0)
        counts = np.bincount(self.image_index[kept], minlength=len(self.sizes))
        replaced = dataclasses.replace(self, labels=new.astype(np.int32))
        return dataclasses.replace(
            replaced.take_boxes(kept), offsets=np.concatenate([[0], np.cumsum(counts)])
        )


def build_annotations(
    name: str,
    sizes: Int[np.ndarray, "images 2"],
    image_ids: Sequence[int | str],
    file_names: tuple[str, ...],
    image_index: Int[np.ndarray, "raw"],
    boxes_xywh: Float[np.ndarray, "raw 4"],
    labels: Int[np.ndarray, "raw"],
    is_crowd: Bool[np.ndarray, "raw"],
    area: Float[np.ndarray, "raw"],
    ignored: Bool[np.ndarray, "raw"] | None = None,
    fingerprints: Int[np.ndarray, "images"] | None = None,
) -> Annotations:
    """Sorts boxes by image, drops bad boxes with a warning, and clips the others to their images.

    The rules are those of mmdetection. A box is bad if a coordinate is not finite, if its width or
    height is below 1 pixel, if its area is not above 0, if it lies outside its image, or if it is
    marked to be ignored.

    Args:
      name: name of the data set, for messages.
      sizes: (height, width) of each image.
      image_ids: id of each image.
      file_names: file name of each image.
      image_index: position of the image of each box.
      boxes_xywh: (x, y, width, height) of each box in pixels, float64.
      labels: label of each box.
      is_crowd: whether each box is a crowd.
      area: area of each box in pixels; NaN (unknown) becomes width * height.
      ignored: which boxes to drop; None: none.
      fingerprints: fingerprints of the image files; None: unknown.

    Raises:
      UserError: there are no images.
    """
    if len(sizes) == 0:
        raise UserError(f"{name}: has no images; check the file or the split")
    with np.errstate(invalid="ignore", over="ignore"):  # infinite or huge coordinates
        area = np.where(np.isnan(area), boxes_xywh[:, 2] * boxes_xywh[:, 3], area)
        corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    limits = np.tile(sizes[image_index][:, ::-1], 2).astype(np.float64)
    clipped = np.clip(corners, 0, limits)
    marked = np.zeros(len(boxes_xywh), bool) if ignored is None else ignored
    not_finite = ~marked & ~np.isfinite(boxes_xywh).all(axis=1)
    degenerate = ~marked & ~not_finite & ((boxes_xywh[:, 2:] < 1).any(axis=1) | ~(area > 0))
    outside = ~marked & ~not_finite & ~degenerate & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    bad = not_finite | degenerate | outside
    if bad.any():
        _LOGGER.warning(
            "%s: dropped %d of %d boxes: %d not finite, %d too small, %d outside their image",
            *(name, bad.sum(), len(bad), not_finite.sum(), degenerate.sum(), outside.sum()),
        )
    if marked.any():
        _LOGGER.warning("%s: dropped %d boxes that are marked with 'ignore'", name, marked.sum())
    good = ~(bad | marked)
    order = np.flatnonzero(good)[np.argsort(image_index[good], kind="stable")]
    counts = np.bincount(image_index[order], minlength=len(sizes))
    ids = np.empty(len(sizes), object)
    ids[:] = list(image_ids)
    return Annotations(
        sizes=sizes.astype(np.int32),
        image_ids=ids,
        file_names=file_names,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=clipped[order].astype(np.float32),
        labels=labels[order].astype(np.int32),
        is_crowd=is_crowd[order].astype(bool),
        area=area[order].astype(np.float64),
        annotated=np.bincount(image_index, minlength=len(sizes)) > 0,
        fingerprints=np.zeros(len(sizes), np.int64) if fingerprints is None else fingerprints,
    )


def no_annotations(
    sizes: Int[np.ndarray, "images 2"], image_ids: Sequence[int | str], file_names: tuple[str, ...]
) -> Annotations:
    """The table of images without annotations."""
    none = np.zeros(0, np.int64)
    table = np.asarray(sizes).reshape(-1, 2)
    return build_annotations(
        "images", table, image_ids, file_names, none, np.zeros((0, 4)), none, none > 0, none + 0.5
    )
