"""Makes a data set without annotations from the frames of a video file."""

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

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg is silent; our errors say what is wrong

_DEFAULT_RATE = 25.0  # frames per second of a video without a usable rate


class Frames:
    """Reads frames of a video by position; reading in order is fast, because frames depend on earlier ones.

    It can be pickled, and a copy opens the file again. The last `kept` frames are cached.
    """

    def __init__(self, path: Path, kept: int = 0) -> None:
        self.path, self.kept = path, kept
        self._capture: cv2.VideoCapture | None = None
        self._next = 0
        self._last: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "kept": self.kept, "_capture": None, "_next": 0, "_last": OrderedDict()}

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        """Returns frame i as RGB.

        Raises:
          UserError: the frame does not exist or cannot be decoded.
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
      UserError: the file cannot be read or is not a video.
    """
    open_file(path).close()  # raises the error of a missing or unreadable file
    try:
        # FFmpeg only: other readers take a name with % for a sequence of files. An absolute path, because
        # FFmpeg takes a word before a colon for a protocol.
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
        if capture.isOpened():
            return capture
    except (cv2.error, ValueError, TypeError):  # the name is not valid text
        pass
    raise UserError(f"{path}: cannot be decoded as a video; convert it, or leave it out")


class Video(NamedTuple):
    """The properties of a video file."""

    frames: int  # number of frames
    size: tuple[int, int]  # (height, width) of the first frame
    frame_rate: float  # frames per second


def probe_video(path: Path) -> Video:
    """Counts the readable frames of a video, because the number in the file is only an estimate.

    Raises:
      UserError: the file cannot be read, is not a video, or has no frames.
    """
    capture = open_video(path)
    found, frame = capture.read()
    if not found or frame is None:
        raise UserError(f"{path}: has no frame that can be decoded; convert the video, or leave it out")
    stated = int(np.nan_to_num(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    others = itertools.takewhile(bool, (capture.grab() for _ in itertools.count()))
    count = 1 + sum(1 for _ in progress(others, "counting frames", max(stated, 1)))
    if count < 0.9 * stated:
        logging.warning("%s: has %d frames, but the file states %d; it may be cut off", path, count, stated)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    usable = math.isfinite(rate) and 0.1 <= rate <= 1000
    return Video(count, frame.shape[:2], rate if usable else _DEFAULT_RATE)


def video_source(path: Path, video: Video, first_id: int, categories: Categories, kept: int = 0) -> Source:
    """Makes a source of the frames of a video.

    Args:
      path: path of the file.
      video: result of `probe_video`.
      first_id: the image id of frame 0; the ids of the other frames follow.
      categories: classes of the detector.
      kept: number of last frames that are cached.
    """
    names = tuple(f"{path}: frame {i}" for i in range(video.frames))
    ids = range(first_id, first_id + video.frames)
    table = no_annotations(np.tile(video.size, (video.frames, 1)), ids, names)
    return Source(str(path), categories.names, categories.ids, table, Frames(path, kept))
