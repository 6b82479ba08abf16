"""The Python API: load a trained detector in one line, and train.

    import gfl_jax

    detector = gfl_jax.load("runs/gfl_trees")
    found = detector("photo.jpg")
    detector.draw("photo.jpg", found).save("out.png")

The package `gfl_jax` exports these names. It imports jax only when one of them is used.
"""

import os
import threading
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
import PIL.Image
from jaxtyping import Float, Int

from gfl_jax.config import Config
from gfl_jax.configuration.config_files import load_config
from gfl_jax.data.categories import Categories
from gfl_jax.data.image_files import ImageLike, images_source
from gfl_jax.drawing import draw_boxes
from gfl_jax.errors import UserError
from gfl_jax.export import export_detector
from gfl_jax.paths import as_path
from gfl_jax.prediction.predict import Predict, make_predict
from gfl_jax.prediction.predict_exported import read_exported
from gfl_jax.training import loop
from gfl_jax.training.trained import Trained, load_trained, trained_config


class Found(NamedTuple):
    """The detections of one image, by descending score, with at least `config.inference.score_threshold`."""

    boxes: Float[np.ndarray, "n 4"]  # (x1, y1, x2, y2) in pixels of the image
    scores: Float[np.ndarray, " n"]  # between 0 and 1
    labels: Int[np.ndarray, " n"]  # classes, counted from 0
    names: tuple[str, ...]  # of the classes, one for each box

    def above(self, score: float) -> "Found":
        """The detections with a score above `score`."""
        kept = int(np.sum(self.scores > score))  # the first ones, because the best come first
        return Found(self.boxes[:kept], self.scores[:kept], self.labels[:kept], self.names[:kept])


class Detector:
    """A trained detector. Call it with an image or a list of images; several threads may do so."""

    def __init__(self, predict: Predict, classes: Categories, trained: Trained | None = None) -> None:
        self.classes = classes.names
        self.trained = trained  # its config and variables; None: an exported file
        self._categories, self._predict = classes, predict
        self._lock = threading.Lock()  # one call at a time, because each uses all devices

    @overload
    def __call__(self, images: ImageLike) -> Found: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[Found]: ...
    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Found | list[Found]:
        """Detects objects in images.

        The network is compiled once for each batch shape. A list is processed in batches of
        `config.loader.eval_batch_size` images.

        Args:
          images: an image or a list of images, each the path of a file, a uint8 RGB array (height,
            width, 3), or a PIL image.

        Returns:
          The detections of the image, or a list of them in the order of the images.

        Raises:
          UserError: an image cannot be read, is not such an array, or needs too much memory.
        """
        if isinstance(images, (str, os.PathLike, np.ndarray, PIL.Image.Image)):
            return self._detect([images])[0]
        return self._detect(list(images))

    def draw(self, image: ImageLike, found: Found, min_score: float = 0.3) -> PIL.Image.Image:
        """Draws detections on their image.

        Args:
          image: the path of a file or a uint8 RGB array (height, width, 3).
          found: its detections.
          min_score: boxes with a lower score are left out.
        """
        pixels = images_source([image], self._categories).read_image(0)
        drawn = draw_boxes(pixels, found.boxes, found.labels, found.scores, self.classes, min_score)
        return PIL.Image.fromarray(drawn)

    def export(self, output: str | os.PathLike[str], canvas: tuple[int, int] | None = None) -> None:
        """Exports the detector to one file that runs with jax alone. `load` reads it too.

        Args:
          output: the file; FILE.json beside it gets the names of the classes and the resize.
          canvas: (height, width) of the canvas that images are padded to; None: the largest bucket of the
            config.

        Raises:
          UserError: the canvas is impossible, the file cannot be written, or the detector is an exported
            file itself.
        """
        if self.trained is None:
            raise UserError(f"{output}: the detector is an exported file already; copy that file")
        export_detector(self.trained, as_path(output), canvas or (None, None))

    def _detect(self, images: list[ImageLike]) -> list[Found]:
        if not images:
            return []
        source, too_large = images_source(images, self._categories), dict[int, str]()
        with self._lock:
            found = {one.position: one for one in self._predict(source, too_large)}
        for i in set(range(len(images))) - set(found):
            if i in too_large:
                raise UserError(too_large[i])
            source.read_image(i)  # raises the error that kept the image out of the results
            raise UserError(f"{source.file_names[i]}: could not be read; try again")
        return [
            Found(one.boxes, one.scores, one.labels, tuple(self.classes[label] for label in one.labels))
            for _, one in sorted(found.items())
        ]


def load(name: str | os.PathLike[str], config: Config | None = None) -> Detector:
    """Loads a trained detector.

    Args:
      name: a work directory of `train`, the name of published weights, which `main.py models` lists, or an
        exported file.
      config: the config to use; None: the config of the run or of the published weights.

    Raises:
      UserError: there is no such detector, or its weights cannot be downloaded or read.
    """
    name = os.fspath(name)
    if as_path(name).is_file():
        return Detector(*read_exported(as_path(name)))
    trained = load_trained(name, config or trained_config(name))
    return Detector(make_predict(trained), trained.named_classes(), trained)


def train(config: Config | str, workdir: str | os.PathLike[str]) -> dict[str, float]:
    """Trains a detector, or resumes the run of an earlier call with the same work directory.

    Args:
      config: the experiment, or the name of a config file, as for `--config`.
      workdir: where checkpoints, logs and images are written; `load` reads it.

    Returns:
      The COCO metrics after the last step; empty if the run was stopped by Ctrl-C or SIGTERM, or has no data
      for evaluation.

    Raises:
      UserError: the config does not fit, or the run cannot be resumed.
    """
    return loop.train(load_config(config) if isinstance(config, str) else config, as_path(workdir))
