"""The frames of a video file as a data set without annotations."""

import itertools
import logging
import math
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from gfl_jax.console.progress import progress
from gfl_jax.data.annotations import no_annotations
from gfl_jax.data.categories import Categories
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import open_file

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg is quiet: what is wrong is said in our errors

_USUAL_RATE = 25.0  # frames a second, of a video that does not say its own


class Frames:
    """Reads frames of a video by their position; quick in order, since frames lean on those before.

    It pickles; a copy opens the file anew. The `kept` last frames may be asked for again at no cost.
    """

    def __init__(self, path: Path, kept: int = 0) -> None:
        self.path, self.kept = path, kept
        self._capture: cv2.VideoCapture | None = None
        self._next = 0
        self._last: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "kept": self.kept, "_capture": None, "_next": 0, "_last": OrderedDict()}

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        """Frame i, RGB.

        Raises:
          UserError: it is not there, or cannot be decoded.
        """
        if i in self._last:
            return self._last[i]
        if self._capture is None or i < self._next:
            self._capture, self._next = open_video(self.path), 0
        found = True
        while found and self._next <= i:  # a seek is not exact in every format
            found = self._capture.grab()
            self._next += 1
        found, frame = self._capture.retrieve() if found else (False, None)
        if not found or frame is None:
            raise UserError(f"{self.path}: frame {i} cannot be decoded; convert the video")
        image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if self.kept:
            self._last[i] = image
            while len(self._last) > self.kept:
                self._last.popitem(last=False)
        return image


def open_video(path: Path) -> cv2.VideoCapture:
    """Opens a video file.

    Raises:
      UserError: it cannot be read, or is no video.
    """
    open_file(path).close()  # for the error of what is no file
    try:
        # By FFmpeg alone, and by a path from the root: other readers take names with % for many files, and
        # FFmpeg takes a word before a colon for a protocol.
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
        if capture.isOpened():
            return capture
    except (cv2.error, ValueError, TypeError):  # a name that is no text
        pass
    raise UserError(f"{path}: cannot be decoded as a video; convert it, or leave it out")


class Video(NamedTuple):
    """What is known of a video before its frames are looked at."""

    frames: int  # how many there are
    size: tuple[int, int]  # (height, width) of the first one
    frame_rate: float  # frames a second


def look_at_video(path: Path) -> Video:
    """Counts the frames that can be read: what a file says of their number is an estimate.

    Raises:
      UserError: it cannot be read, is no video or holds no frame.
    """
    capture = open_video(path)
    found, frame = capture.read()
    if not found or frame is None:
        raise UserError(f"{path}: holds no frame that can be decoded; convert the video, or leave it out")
    said = int(np.nan_to_num(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    others = itertools.takewhile(bool, (capture.grab() for _ in itertools.count()))
    count = 1 + sum(1 for _ in progress(others, "counting frames", max(said, 1)))
    if count < 0.9 * said:
        logging.warning("%s: has %d frames, where it says %d; is it cut off?", path, count, said)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    usable = math.isfinite(rate) and 0.1 <= rate <= 1000
    return Video(count, frame.shape[:2], rate if usable else _USUAL_RATE)


def video_source(path: Path, video: Video, first_id: int, categories: Categories, kept: int = 0) -> Source:
    """A source of the frames of a video.

    Args:
      path: of the file.
      video: from `look_at_video`.
      first_id: the image id of frame 0; the others follow.
      categories: what boxes in them may be.
      kept: how many of the last frames are kept, to be asked for again.
    """
    names = tuple(f"{path}: frame {i}" for i in range(video.frames))
    ids = range(first_id, first_id + video.frames)
    table = no_annotations(np.tile(video.size, (video.frames, 1)), ids, names)
    return Source(str(path), categories.names, categories.ids, table, Frames(path, kept))
