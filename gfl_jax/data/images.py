"""Encoded images to arrays, and their sizes from the header alone.

One rule for both: an EXIF orientation is applied, unless it is asked for the raw pixels, as OpenCV does
it (and with it the reference), so that sizes known beforehand are those of the decoded images.
"""

import io
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gfl_jax.errors import UserError

_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 turn the image by a quarter
_ORIENTED = ("JPEG", "MPO", "PNG", "WEBP")  # formats whose raw pixels OpenCV can give as well
_REMEDY = "replace the file, or take it out of the data set"


def decode_image(
    encoded: bytes, name: str, size: tuple[int, int] | None = None, displayed: bool = True
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a JPEG, PNG or other image; grayscale and CMYK ones become RGB too.

    Args:
      encoded: the content of the file.
      name: what to call the image in an error message.
      size: the (height, width) that it must have.
      displayed: apply the EXIF orientation, if there is one.

    Raises:
      UserError: it cannot be decoded, or is of another size.
    """
    image = _decode(encoded, cv2.IMREAD_COLOR_RGB | (0 if displayed else cv2.IMREAD_IGNORE_ORIENTATION))
    if image is None:
        raise UserError(f"{name}: cannot be decoded as an image; {_REMEDY}")
    if size is not None and image.shape[:2] != size:
        raise UserError(
            f"{name}: is {image.shape[0]} x {image.shape[1]} pixels (height x width), but its annotations "
            f"say {size[0]} x {size[1]}; correct the annotations or the file"
        )
    return image


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The content of a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def image_header(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """(height, width) of the raw pixels, and the EXIF orientation (1 to 8), without decoding them.

    Raises:
      UserError: it is not an image.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            # Not `image.getexif()`: of a PNG without EXIF that would decode all of it.
            tag = Image.Image.getexif(image).get(_ORIENTATION) if image.format in _ORIENTED else None
    except Exception as error:  # decoders raise all sorts on damaged files
        raise UserError(f"{name}: cannot be decoded as an image; {_REMEDY}") from error
    return height, width, tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def image_size(encoded: bytes, name: str) -> tuple[int, int]:
    """(height, width) of an encoded image as `decode_image` gives it, read from its header.

    Raises:
      UserError: it is not an image.
    """
    height, width, orientation = image_header(io.BytesIO(encoded), name)
    return (width, height) if orientation >= 5 else (height, width)


def _decode(encoded: bytes, flags: int) -> UInt8[np.ndarray, "height width 3"] | None:
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:  # an empty file, or one larger than OpenCV allows
        return None
