"""Writes PNG files, completely or not at all."""

import cv2
from etils.epath import Path

from gfl_jax.drawing.canvas import Image
from gfl_jax.files import write_file


def save_png(path: str | Path, image: Image) -> None:
    """Writes an RGB image; the file is always either the old one or the complete new one."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_file(path, data.tobytes())
