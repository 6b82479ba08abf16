"""A data set as the rest of the library sees it: annotations in memory, pictures read by position."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gfl_jax.data.annotations import Annotations
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
    """A data set of known sizes and boxes, whose pictures are read when asked for.

    `read_image(i)` gives picture i as uint8 RGB, or raises a UserError that names its file.
    It must pickle, since worker processes get a copy of the source.
    """

    name: str
    categories: tuple[str, ...]  # by label
    category_ids: tuple[int, ...]  # by label: the ids that results are written with
    annotations: Annotations
    read_image: Callable[[int], UInt8[np.ndarray, "height width 3"]]

    def __len__(self) -> int:
        return len(self.annotations.sizes)

    @property
    def sizes(self) -> Int[np.ndarray, "images 2"]:
        """(height, width) of each picture."""
        return self.annotations.sizes

    @property
    def image_ids(self) -> Int[np.ndarray, "images"]:
        """The id of each picture."""
        return self.annotations.image_ids

    @property
    def file_names(self) -> tuple[str, ...]:
        """The file name of each picture."""
        return self.annotations.file_names

    @property
    def max_boxes(self) -> int:
        """The most boxes, crowds not counted, of any picture."""
        return self.annotations.max_boxes

    def with_category_ids(self, ids: tuple[int, ...]) -> "Source":
        """The same source with other ids for its categories."""
        return dataclasses.replace(self, category_ids=ids)

    def example(self, i: int) -> Example:
        """Picture i, decoded, with all of its boxes, crowds too."""
        table, rows = self.annotations, self.annotations.rows(i)
        return Example(
            self.read_image(i), table.boxes[rows], table.labels[rows], table.is_crowd[rows], table.area[rows]
        )


def require_same_categories(train: Source, evaluation: Source) -> None:
    """Raises a UserError if two sources do not number the same categories alike."""
    if train.categories != evaluation.categories:
        raise UserError(
            f"{evaluation.name}: its categories are not those of {train.name} in the same order; "
            "make both from one list of categories"
        )
