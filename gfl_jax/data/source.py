"""A data set as the rest of the library sees it: annotations in memory, images read by position."""

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
    """A picture and its boxes, as they are in the data set."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    boxes: Float[np.ndarray, "boxes 4"]  # xyxy in pixels
    labels: Int[np.ndarray, "boxes"]
    is_crowd: Bool[np.ndarray, "boxes"]
    area: Float[np.ndarray, "boxes"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set of known sizes and boxes, whose images are read when asked for.

    `read_image(i)` gives image i as uint8 RGB, or raises a UserError that names its file.
    It must pickle, since worker processes get a copy of the source.
    """

    name: str
    categories: tuple[str, ...]  # by label
    # By label: the ids that results are written with; None for a class that the data set does not have.
    category_ids: tuple[Id | None, ...]
    annotations: Annotations
    read_image: Callable[[int], UInt8[np.ndarray, "height width 3"]]
    # The annotations as their file has them, for the metrics; None where no file is at hand.
    truth: CocoFile | None = None
    annotated: bool = True  # False: the data set has no annotations, and so no metrics

    def __len__(self) -> int:
        return len(self.annotations.sizes)

    @property
    def sizes(self) -> Int[np.ndarray, "images 2"]:
        """(height, width) of each image."""
        return self.annotations.sizes

    @property
    def image_ids(self) -> np.ndarray:
        """The id of each image, (images,), exactly as the data set has it."""
        return self.annotations.image_ids

    @property
    def file_names(self) -> tuple[str, ...]:
        """The file name of each image."""
        return self.annotations.file_names

    @property
    def max_boxes(self) -> int:
        """The most boxes, crowds not counted, of any image."""
        return self.annotations.max_boxes

    def with_truth(self, truth: CocoFile, ids: tuple[Id, ...]) -> "Source":
        """The same source with the annotations of a file, and that file's ids for its categories."""
        return dataclasses.replace(self, category_ids=ids, truth=truth)

    def for_workers(self) -> "Source":
        """Without what only the metrics need: small to send to other processes."""
        return dataclasses.replace(self, truth=None)

    def take(self, positions: Int[np.ndarray, "chosen"]) -> "Source":
        """Some of the images, in the order of their positions."""
        return dataclasses.replace(
            self,
            annotations=self.annotations.take(positions),
            read_image=_Chosen(self.read_image, positions),
        )

    def example(self, i: int) -> Example:
        """Image i, decoded, with all of its boxes, crowds too."""
        table, rows = self.annotations, self.annotations.rows(i)
        return Example(
            self.read_image(i), table.boxes[rows], table.labels[rows], table.is_crowd[rows], table.area[rows]
        )


class _Chosen:
    """Reads images by their position among the chosen ones."""

    def __init__(
        self,
        read_image: Callable[[int], UInt8[np.ndarray, "height width 3"]],
        positions: Int[np.ndarray, "chosen"],
    ) -> None:
        self.read_image, self.positions = read_image, positions

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        return self.read_image(int(self.positions[i]))


class MatchedClasses(NamedTuple):
    """A source in the labels of a detector, and how its classes differ from the detector's."""

    source: Source
    missing: tuple[str, ...]  # of the detector, not in the data set
    foreign: tuple[str, ...]  # in the data set, unknown to the detector: their boxes are left out


def match_classes(source: Source, classes: Categories, owner: str) -> MatchedClasses:
    """Numbers the classes of a source as a detector does, by their names.

    Args:
      source: whose labels are to be changed.
      classes: of the detector.
      owner: of these classes, in messages.

    Raises:
      UserError: they have no class in common.
    """
    if source.categories == classes.names:
        return MatchedClasses(source, (), ())
    own = {name: label for label, name in enumerate(classes.names)}
    labels = np.array([own.get(name, -1) for name in source.categories])
    if (labels < 0).all():
        raise UserError(
            f"{source.name}: none of its classes ({listed(source.categories)}) is one of {owner} "
            f"({listed(classes.names)}); name data of the same classes"
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
    """`match_classes`, where both must have the same classes, in whatever order.

    Raises:
      UserError: names the classes that only one of them has.
    """
    difference = difference_of_classes(classes.names, source.categories)
    if difference:
        raise UserError(
            f"{source.name}: {difference}, compared with the classes of {owner}; name data of the same "
            "classes"
        )
    return match_classes(source, classes, owner).source
