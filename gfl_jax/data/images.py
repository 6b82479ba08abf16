"""Decodes images to arrays, and reads their sizes from the headers.

Both apply the EXIF orientation, as OpenCV and the reference do, unless the raw pixels are requested. So a
size from the header always equals the size of the decoded image.
"""

import io
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gfl_jax.errors import UserError

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our errors say what is wrong
Image.MAX_IMAGE_PIXELS = 2**30  # OpenCV's limit: larger images are errors in both libraries

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 swap height and width
_ORIENTED = ("JPEG", "MPO", "PNG", "WEBP")  # formats whose orientation OpenCV can apply or ignore
_REMEDY = "replace the file, or remove it from the data set"


def decode_image(
    encoded: bytes, name: str, size: tuple[int, int] | None = None, displayed: bool = True
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a JPEG, PNG or other image to RGB; grayscale and CMYK images are converted.

    Args:
      encoded: the content of the file.
      name: name of the image in error messages.
      size: the (height, width) that the image must have; None: any.
      displayed: whether to apply the EXIF orientation, if there is one.

    Raises:
      UserError: the image cannot be decoded, is cut off, or has another size.
    """
    image = _decode(encoded, cv2.IMREAD_COLOR_RGB | (0 if displayed else cv2.IMREAD_IGNORE_ORIENTATION))
    if image is None:
        problem = "is cut off" if _is_cut_off(encoded) else "cannot be decoded as an image"
        raise UserError(f"{name}: {problem}; {_REMEDY}")
    if size is not None and image.shape[:2] != size:
        raise UserError(
            f"{name}: is {image.shape[0]} x {image.shape[1]} pixels (height x width), but its annotations "
            f"say {size[0]} x {size[1]}; correct the annotations or the file"
        )
    return image


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Encodes an RGB image as PNG."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def image_header(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """Reads (height, width) of the raw pixels and the EXIF orientation (1 to 8) without decoding the pixels.

    Args:
      file: the open file.
      name: name of the image in error messages.

    Raises:
      UserError: the file is not an image.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            tag = _exif(image, file).get(_ORIENTATION) if image.format in _ORIENTED else None
    except Exception as error:  # Pillow raises errors of any type for damaged headers
        raise UserError(f"{name}: cannot be decoded as an image; {_REMEDY}") from error
    return height, width, tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def image_size(encoded: bytes | BinaryIO, name: str) -> tuple[int, int]:
    """Reads the (height, width) that `decode_image` will give from the header of an encoded image.

    Args:
      encoded: the content of the file, or the open file.
      name: name of the image in error messages.

    Raises:
      UserError: the file is not an image.
    """
    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    height, width, orientation = image_header(file, name)
    return (width, height) if orientation >= 5 else (height, width)


def _exif(image: Image.Image, file: BinaryIO) -> Image.Exif:
    return _png_exif(file) if image.format == "PNG" else image.getexif()


def _png_exif(file: BinaryIO) -> Image.Exif:
    """Reads the EXIF chunk of a PNG at any position; Pillow would decode the whole image to find it."""
    exif = Image.Exif()
    file.seek(len(_PNG))
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            exif.load(file.read(length))
            break
        file.seek(length + 4, io.SEEK_CUR)
    return exif


def _is_cut_off(encoded: bytes) -> bool:
    """Whether the end of a JPEG or PNG is missing."""
    if encoded.startswith(_PNG) and encoded[12:16] == b"IHDR":
        return b"IEND\xaeB`\x82" not in encoded
    # A preview in the header has its own end marker, but that comes before the last scan of the image.
    return encoded.startswith(b"\xff\xd8") and encoded.rfind(b"\xff\xd9") <= encoded.rfind(b"\xff\xda")


def _decode(encoded: bytes, flags: int) -> UInt8[np.ndarray, "height width 3"] | None:
    if encoded.startswith(_PNG) and _is_cut_off(encoded):
        return None  # libpng would print a message on stderr
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except (cv2.error, ValueError, MemoryError):  # the file is empty or larger than OpenCV allows
        return None
