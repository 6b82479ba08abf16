"""Makes a data set without annotations from single images, which are files or arrays."""

import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
from etils.epath import Path
from jaxtyping import UInt8

from gfl_jax.data.annotations import no_annotations
from gfl_jax.data.categories import Categories
from gfl_jax.data.headers import read_headers
from gfl_jax.data.images import decode_image
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import read_file
from gfl_jax.paths import as_path


def image_files_source(
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    image_ids: Sequence[int],
    categories: Categories,
) -> Source:
    """Makes a source of image files.

    Args:
      paths: paths of the files.
      sizes: (height, width) of each image as displayed, with its EXIF orientation applied.
      image_ids: id of each image.
      categories: classes of the detector.
    """
    names = tuple(map(str, paths))
    table = no_annotations(np.array(sizes), image_ids, names)
    return Source("images", categories.names, categories.ids, table, _Files(tuple(paths)))


class _Files:
    """Reads image files by their position in a list of paths."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        return decode_image(read_file(self.paths[i]), str(self.paths[i]))


# The path of a file, a uint8 RGB array (height, width, 3), or a PIL image.
ImageLike = str | os.PathLike[str] | np.ndarray | PIL.Image.Image


def images_source(images: Sequence[ImageLike], categories: Categories) -> Source:
    """Makes a source of images that are given as arrays, PIL images or paths of files.

    Raises:
      UserError: an array is not an RGB image, or a file cannot be read.
    """
    given = [np.asarray(x.convert("RGB")) if isinstance(x, PIL.Image.Image) else x for x in images]
    files = [as_path(x) for x in given if not isinstance(x, np.ndarray)]
    of_files = iter(read_headers(files).displayed.tolist() if files else [])
    sizes = [_size_of(i, x) if isinstance(x, np.ndarray) else next(of_files) for i, x in enumerate(given)]
    names = tuple(f"image {i}" if isinstance(x, np.ndarray) else str(x) for i, x in enumerate(given))
    table = no_annotations(np.array(sizes), range(1, len(given) + 1), names)
    return Source("images", categories.names, categories.ids, table, _Images(tuple(given)))


class _Images:
    """Returns or reads images by their position in a list."""

    def __init__(self, images: tuple[str | os.PathLike[str] | np.ndarray, ...]) -> None:
        self.images = images

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        image = self.images[i]
        return image if isinstance(image, np.ndarray) else decode_image(read_file(as_path(image)), str(image))


def _size_of(i: int, image: np.ndarray) -> tuple[int, int]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(
            f"image {i}: is an array {image.shape} of {image.dtype}; pass uint8 RGB (height, width, 3)"
        )
    return image.shape[0], image.shape[1]
