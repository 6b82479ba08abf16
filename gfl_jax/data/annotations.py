"""All boxes of a data set in flat arrays: small to send to a worker process, quick to filter.

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
    """What is known of the images of a data set without reading them."""

    sizes: Int[np.ndarray, "images 2"]  # (height, width)
    image_ids: np.ndarray  # (images,) of Python's own whole numbers or texts: exact, whatever their size
    file_names: tuple[str, ...]
    offsets: Int[np.ndarray, "images+1"]
    boxes: Float[np.ndarray, "boxes 4"]  # xyxy in pixels
    labels: Int[np.ndarray, "boxes"]
    is_crowd: Bool[np.ndarray, "boxes"]
    area: Float[np.ndarray, "boxes"]  # of the object's mask where there is one, in pixels
    annotated: Bool[np.ndarray, "images"]  # whether any annotation, be it bad or a crowd, is of the image
    fingerprints: Int[np.ndarray, "images"]  # of the files of the images; 0 where they are not known

    @property
    def max_boxes(self) -> int:
        """The most boxes, crowds not counted, of any image."""
        total = np.concatenate([[0], np.cumsum(~self.is_crowd)])
        return int(np.diff(total[self.offsets]).max(initial=0))

    @property
    def image_index(self) -> Int[np.ndarray, "boxes"]:
        """The position of each box's image."""
        return np.repeat(np.arange(len(self.sizes)), np.diff(self.offsets))

    def rows(self, i: int) -> slice:
        """The rows of image i's boxes."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def take(self, positions: Int[np.ndarray, "chosen"]) -> "Annotations":
        """Those of some images, in the order of their positions."""
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
        """The same images with their boxes in another order, in which those of an image stay together."""
        return dataclasses.replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            area=self.area[rows],
        )

    def relabelled(self, labels: Int[np.ndarray, "classes"]) -> "Annotations":
        """With label `labels[k]` in place of k; boxes whose new label is -1 are left out."""
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
    """Sorts boxes by image, drops and reports the bad ones, and clips the others.

    A box is bad, as in mmdetection, if a coordinate is not finite, its width, height or
    area is too small (below 1, below 1, not above 0), it lies outside its image, or it is marked
    to be ignored.

    Args:
      name: of the data set, for messages.
      sizes: (height, width) of each image.
      image_ids: of each image.
      file_names: of each image.
      image_index: position of each box's image.
      boxes_xywh: (x, y, width, height) in pixels, float64.
      labels: of each box.
      is_crowd: of each box.
      area: of each box; NaN where unknown: filled with width * height.
      ignored: boxes to leave out; None: none.
      fingerprints: of the files of the images; None: not known.

    Raises:
      UserError: no image is there.
    """
    if len(sizes) == 0:
        raise UserError(f"{name}: has no images; check the file or the split")
    with np.errstate(invalid="ignore", over="ignore"):  # infinite or huge coordinates
        area = np.where(np.isnan(area), boxes_xywh[:, 2] * boxes_xywh[:, 3], area)
        corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    limits = np.tile(sizes[image_index][:, ::-1], 2).astype(np.float64)
    clipped = np.clip(corners, 0, limits)
    told = np.zeros(len(boxes_xywh), bool) if ignored is None else ignored
    not_finite = ~told & ~np.isfinite(boxes_xywh).all(axis=1)
    degenerate = ~told & ~not_finite & ((boxes_xywh[:, 2:] < 1).any(axis=1) | ~(area > 0))
    outside = ~told & ~not_finite & ~degenerate & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    bad = not_finite | degenerate | outside
    if bad.any():
        _LOGGER.warning(
            "%s: dropped %d of %d boxes: %d not finite, %d degenerate, %d outside their image",
            *(name, bad.sum(), len(bad), not_finite.sum(), degenerate.sum(), outside.sum()),
        )
    if told.any():
        _LOGGER.warning("%s: left out %d boxes that are marked with 'ignore'", name, told.sum())
    good = ~(bad | told)
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
    """Of images about whose boxes nothing is known."""
    none = np.zeros(0, np.int64)
    table = np.asarray(sizes).reshape(-1, 2)
    return build_annotations(
        "images", table, image_ids, file_names, none, np.zeros((0, 4)), none, none > 0, none + 0.5
    )
