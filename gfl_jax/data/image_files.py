"""Single image files as a data set without annotations."""

from collections.abc import Sequence

import numpy as np
from etils.epath import Path
from jaxtyping import UInt8

from gfl_jax.data.annotations import no_annotations
from gfl_jax.data.categories import Categories
from gfl_jax.data.images import decode_image
from gfl_jax.data.source import Source
from gfl_jax.files import read_file


def image_files_source(
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    image_ids: Sequence[int],
    categories: Categories,
) -> Source:
    """A source of image files.

    Args:
      paths: of the files.
      sizes: (height, width) of each, as it is displayed.
      image_ids: of each.
      categories: what boxes in them may be.
    """
    names = tuple(map(str, paths))
    table = no_annotations(np.array(sizes), image_ids, names)
    return Source("images", categories.names, categories.ids, table, _Files(tuple(paths)))


class _Files:
    """Reads images by their position in a list of paths."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        return decode_image(read_file(self.paths[i]), str(self.paths[i]))
