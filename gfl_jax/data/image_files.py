"""Single image files as a data set without annotations."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gfl_jax.data.annotations import no_annotations
from gfl_jax.data.categories import Categories
from gfl_jax.data.images import decode_image, image_size
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import open_file, read_file
from gfl_jax.progress import progress

_THREADS = 8  # what waits for a disk or a network needs no core


def header_sizes(paths: Sequence[Path]) -> list[tuple[int, int] | UserError]:
    """The (height, width) of each image file, from its header; or the error that reading it gave."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as threads:
        warnings.simplefilter("ignore")  # Pillow's, about oddities that it copes with
        return list(progress(threads.map(_header_size, paths), "reading sizes", len(paths)))


def image_files_source(
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    image_ids: Sequence[int],
    categories: Categories,
) -> Source:
    """A source of image files.

    Args:
      paths: of the files.
      sizes: (height, width) of each, as `header_sizes` gives them.
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


def _header_size(path: Path) -> tuple[int, int] | UserError:
    try:
        with open_file(path) as file:
            return image_size(file, str(path))
    except UserError as error:
        return error
