"""The common interface of data sets: annotations are in memory, and images are read by position."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gfl_jax.data.annotations import Annotations
from gfl_jax.data.categories import Categories, Id, difference_of_classes, listed
from gfl_jax.data.coco_file import CocoFile
from gfl_jax.errors import UserError


class Example(NamedTuple):
    """An image and its boxes, as stored in the data set."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    boxes: Float[np.ndarray, "boxes 4"]  # xyxy in pixels
    labels: Int[np.ndarray, "boxes"]
    is_crowd: Bool[np.ndarray, "boxes"]
    area: Float[np.ndarray, "boxes"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set with its annotations; images are read on request.

    `read_image(i)` returns image i as uint8 RGB, or raises a UserError that names its file. It must be
    picklable, because worker processes get a copy of the source.
    """

    name: str
    categories: tuple[str, ...]  # names by label
    # Ids in COCO results, by label; None for a class that the data set lacks.
    category_ids: tuple[Id | None, ...]
    annotations: Annotations
    read_image: Callable[[int], UInt8[np.ndarray, "height width 3"]]
    # The unchanged annotations of the file, for the metrics; None without a file.
    truth: CocoFile | None = None
    annotated: bool = True  # False: the data set has no annotations, so no metrics are computed

    def __len__(self) -> int:
        return len(self.annotations.sizes)

    @property
    def sizes(self) -> Int[np.ndarray, "images 2"]:
        """(height, width) of each image."""
        return self.annotations.sizes

    @property
    def image_ids(self) -> np.ndarray:
        """The id of each image, exactly as in the data set; shape (images,)."""
        return self.annotations.image_ids

    @property
    def file_names(self) -> tuple[str, ...]:
        """The file name of each image."""
        return self.annotations.file_names

    @property
    def max_boxes(self) -> int:
        """The largest number of boxes in an image, crowds excluded."""
        return self.annotations.max_boxes

    def with_truth(self, truth: CocoFile, ids: tuple[Id, ...]) -> "Source":
        """The same source with the annotations and the category ids of a COCO file."""
        return dataclasses.replace(self, category_ids=ids, truth=truth)

    def for_workers(self) -> "Source":
        """The source without the data that only the metrics need, so it is small to send to processes."""
        return dataclasses.replace(self, truth=None)

    def take(self, positions: Int[np.ndarray, "chosen"]) -> "Source":
        """A source of some of the images, in the order of `positions`."""
        return dataclasses.replace(
            self,
            annotations=self.annotations.take(positions),
            read_image=_Subset(self.read_image, positions),
        )

    def example(self, i: int) -> Example:
        """Decodes image i and returns it with all its boxes, crowds included."""
        table, rows = self.annotations, self.annotations.rows(i)
        return Example(
            self.read_image(i), table.boxes[rows], table.labels[rows], table.is_crowd[rows], table.area[rows]
        )


class _Subset:
    """Reads images by their position in a subset."""

    def __init__(
        self,
        read_image: Callable[[int], UInt8[np.ndarray, "height width 3"]],
        positions: Int[np.ndarray, "chosen"],
    ) -> None:
        self.read_image, self.positions = read_image, positions

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        return self.read_image(int(self.positions[i]))


class MatchedClasses(NamedTuple):
    """A source with the labels of a detector, and the classes that only one of the two has."""

    source: Source
    missing: tuple[str, ...]  # classes of the detector that the data set lacks
    foreign: tuple[str, ...]  # classes of the data set that the detector lacks; their boxes are dropped


def match_classes(source: Source, classes: Categories, owner: str) -> MatchedClasses:
    """Changes the labels of a source to those of a detector; classes are matched by name.

    Args:
      source: the data set.
      classes: classes of the detector.
      owner: owner of these classes, for messages.

    Raises:
      UserError: the data set and the detector have no class in common.
    """
    if source.categories == classes.names:
        return MatchedClasses(source, (), ())
    own = {name: label for label, name in enumerate(classes.names)}
    labels = np.array([own.get(name, -1) for name in source.categories])
    if (labels < 0).all():
        raise UserError(
            f"{source.name}: none of its classes ({listed(source.categories)}) is one of {owner} "
            f"({listed(classes.names)}); name a data set with these classes"
        )
    ids = dict(zip(source.categories, source.category_ids, strict=True))
    matched = dataclasses.replace(
        source,
        categories=classes.names,
        category_ids=tuple(ids.get(name) for name in classes.names),
        annotations=source.annotations.relabelled(labels),
    )
    return MatchedClasses(
        matched,
        tuple(name for name in classes.names if name not in ids),
        tuple(name for name in source.categories if name not in own),
    )


def require_same_classes(source: Source, classes: Categories, owner: str) -> Source:
    """Like `match_classes`, but both must have the same classes, in any order.

    Raises:
      UserError: names the classes that only one of them has.
    """
    difference = difference_of_classes(classes.names, source.categories)
    if difference:
        raise UserError(
            f"{source.name}: {difference}, compared with the classes of {owner}; name a data set with the "
            "same classes"
        )
    return match_classes(source, classes, owner).source
