"""Reads sizes and orientations from image headers and finds damaged files, before any image is decoded.

Boxes may have been drawn on the displayed image, with its EXIF orientation applied, or on the raw pixels. If
the two sizes differ, the size in the annotations shows which one was used.
"""

import concurrent.futures
import logging
import warnings
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Int

from gfl_jax.console.progress import progress
from gfl_jax.data.images import image_header
from gfl_jax.errors import UserError
from gfl_jax.files import open_file

Orientation = Literal["auto", "display", "raw"]

_LOGGER = logging.getLogger(__name__)
_THREADS = 16  # network storage serves many requests at a time
_HEAD = 4096  # bytes at the start of a file that its fingerprint uses, besides its length


class Header(NamedTuple):
    """The header of an image file."""

    height: int  # of the raw pixels
    width: int
    orientation: int  # the EXIF tag, 1 to 8; 5 to 8 swap height and width
    fingerprint: int  # of the content

    @property
    def displayed(self) -> tuple[int, int]:
        """(height, width) with the orientation applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class Headers(NamedTuple):
    """The headers of many image files, in arrays."""

    sizes: Int[np.ndarray, "files 2"]  # (height, width) of the raw pixels
    orientations: Int[np.ndarray, "files"]
    fingerprints: Int[np.ndarray, "files"]

    @property
    def displayed(self) -> Int[np.ndarray, "files 2"]:
        """(height, width) with the orientation applied."""
        return np.where(self.orientations[:, None] >= 5, self.sizes[:, ::-1], self.sizes)


def try_headers(paths: Sequence[Path]) -> list[Header | UserError]:
    """Reads the header of each file in threads; a file that fails gives its error instead."""
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of defects that it can handle
        return list(progress(pool.map(_try_header, paths, chunksize=64), "reading headers", len(paths)))


def read_headers(paths: Sequence[Path]) -> Headers:
    """Reads the header of each file.

    Raises:
      UserError: names the first file that cannot be read or is not an image, and says how many more there
        are.
    """
    found = try_headers(paths)
    errors = [header for header in found if isinstance(header, UserError)]
    if errors:
        more = f" (and {len(errors) - 1} more files cannot be read)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{more}")
    return as_table([header for header in found if isinstance(header, Header)])


def as_table(headers: Sequence[Header]) -> Headers:
    """Stacks headers into arrays."""
    table = np.array(headers, np.int64).reshape(-1, 4)
    return Headers(table[:, :2].astype(np.int32), table[:, 2], table[:, 3])


def fingerprint(head: bytes, length: int) -> int:
    """A hash of the length and the first bytes of a file."""
    return length << 32 | zlib.crc32(head[:_HEAD])


def as_displayed(
    name: str,
    file_names: Sequence[str],
    sizes: Int[np.ndarray, "images 2"],
    headers: Headers,
    wanted: Orientation,
) -> Bool[np.ndarray, "images"]:
    """Decides for each image whether its EXIF orientation is applied (displayed) or not (raw).

    Args:
      name: name of the data set, for messages.
      file_names: file name of each image.
      sizes: (height, width) of each image in the annotations.
      headers: headers of the files.
      wanted: "display" or "raw" for images whose size fits both; "auto": as the sizes of the other images
        indicate, or "display" if they indicate nothing.

    Raises:
      UserError: the annotated size of an image matches neither its displayed nor its raw size.
    """
    displayed = (headers.displayed == sizes).all(axis=1)
    raw = (headers.sizes == sizes).all(axis=1)
    wrong = np.flatnonzero(~displayed & ~raw)
    if wrong.size:
        at = int(wrong[0])
        more = f" (and {len(wrong) - 1} more images have a wrong size)" if len(wrong) > 1 else ""
        raise UserError(
            f"{name}: {file_names[at]} is {_size(headers.displayed[at])} pixels (height x width), but its "
            f"annotations say {_size(sizes[at])}; correct the annotations or the file{more}"
        )
    open_ = displayed & raw & (headers.orientations != 1)
    only_raw, only_displayed = raw & ~displayed, displayed & ~raw
    way = wanted if wanted != "auto" else "raw" if only_raw.any() and not only_displayed.any() else "display"
    against = only_raw if way == "display" else only_displayed
    if against.any():
        _LOGGER.warning(
            "%s: the boxes of %d images are read in %s orientation, because only this fits their size",
            *(name, against.sum(), "raw" if way == "display" else "display"),
        )
    if open_.any() and wanted == "auto":
        _LOGGER.warning(
            "%s: %d images have an EXIF orientation that does not change their size (such as %s); their "
            "boxes are read in %s orientation; set config.dataset.orientation to 'display' or 'raw' to "
            "choose",
            *(name, open_.sum(), file_names[int(np.flatnonzero(open_)[0])], way),
        )
    return np.where(open_, way == "display", displayed)


def _try_header(path: Path) -> Header | UserError:
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
            length = file.seek(0, 2)
            file.seek(0)
            return Header(*image_header(file, str(path)), fingerprint(head, length))
    except UserError as error:
        return error


def _size(size: Int[np.ndarray, "2"]) -> str:
    return f"{size[0]} x {size[1]}"
