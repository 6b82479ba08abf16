"""Pictures on disk, whole or not at all."""

import os
from pathlib import Path

import cv2

from gfl_jax.pictures.canvas import Image


def save_png(path: str | Path, image: Image) -> None:
    """Writes an RGB picture; the file is either the old one or the whole new one."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_bytes(path, data.tobytes())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file under a temporary name, then gives it its own; makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
