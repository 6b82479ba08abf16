"""Writes MP4 videos, completely or not at all."""

import contextlib
import os
from pathlib import Path

import cv2
import numpy as np

from gfl_jax.drawing.canvas import Image
from gfl_jax.errors import UserError
from gfl_jax.files import retrying


class VideoFile:
    """An MP4 file that is written frame by frame; it gets its name if the `with` block ends without an error.

    All frames get the size of the first frame. Odd sides are made even by a copy of the last row or column.
    """

    def __init__(self, path: Path, frame_rate: float) -> None:
        self.path, self.frame_rate = path, frame_rate
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)  # (width, height)

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._check()
                    os.replace(self._temporary, self.path)
        finally:
            with contextlib.suppress(OSError):  # the file may not exist
                self._temporary.unlink()

    def write(self, image: Image) -> None:
        """Adds a frame.

        Raises:
          UserError: the file cannot be written.
        """
        height, width = image.shape[:2]
        if self._writer is None:
            self._size = width + width % 2, height + height % 2
            self._writer = self._open()
        if (width, height) != self._size:
            right, below = self._size[0] - width, self._size[1] - height
            if right in (0, 1) and below in (0, 1):
                image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
            else:
                image = cv2.resize(image, self._size, interpolation=cv2.INTER_LINEAR)
        self._writer.write(np.ascontiguousarray(image[:, :, ::-1]))

    def _open(self) -> cv2.VideoWriter:
        make_folder = lambda: self.path.parent.mkdir(parents=True, exist_ok=True)  # noqa: E731
        retrying(make_folder, f"{self.path}: cannot be written")
        code = cv2.VideoWriter.fourcc(*"mp4v")
        name = os.path.abspath(self._temporary)
        writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, self.frame_rate, self._size)
        if not writer.isOpened():
            raise UserError(f"{self.path}: cannot be written as a video; name another --output")
        return writer

    def _check(self) -> None:
        """Checks that the file is complete; OpenCV reports no error if the disk is full."""
        if not cv2.VideoCapture(os.path.abspath(self._temporary), cv2.CAP_FFMPEG).isOpened():
            raise UserError(f"{self.path}: is incomplete; free disk space, or name another --output")
