"""Detections in the images of any source by an exported file, which holds both weights and program."""

import json
from collections.abc import Iterator

import jax.export
import numpy as np
from etils.epath import Path

from gfl_jax.data.categories import Categories
from gfl_jax.data.source import Source
from gfl_jax.data.transforms import resize_image, resized_sizes
from gfl_jax.errors import UserError, one_line
from gfl_jax.files import read_file
from gfl_jax.prediction.predict import Predict, Prediction


def read_exported(file: Path) -> tuple[Predict, Categories]:
    """Reads an exported detector. Returns a function that detects in images one by one, and the classes.

    Args:
      file: a file that `main.py export` wrote, with FILE.json beside it.

    Raises:
      UserError: one of the two files is missing or damaged, or was not exported for this machine's devices.
    """
    beside = file.with_name(f"{file.name}.json")
    if not beside.is_file():
        raise UserError(
            f"{beside}: there is no such file; keep it beside {file.name}, where `export` wrote it"
        )
    try:
        about = json.loads(read_file(beside))
        exported = jax.export.deserialize(bytearray(read_file(file)))
        resize = about["resize"]["short_side"], about["resize"]["long_side"]
        classes = Categories(tuple(about["categories"]), tuple(about["category_ids"]))
    except Exception as error:  # the flatbuffers reader raises many types
        raise UserError(
            f"{file}: is not a file that `main.py export` wrote ({one_line(error)}); export it again"
        ) from error
    if jax.default_backend() not in exported.platforms:
        raise UserError(
            f"{file}: was exported for {', '.join(exported.platforms)}, not for {jax.default_backend()}; "
            f"export it with --platforms {jax.default_backend()}"
        )
    height, width = about["canvas"]
    count = about["batch"] or 1

    def predict(source: Source, too_large: dict[int, str]) -> Iterator[Prediction]:
        for i, size in enumerate(resized_sizes(source.sizes, *resize).tolist()):
            if size[0] > height or size[1] > width:
                too_large[i] = (
                    f"{source.file_names[i]}: with {size[0]} x {size[1]} pixels after the resize, it is "
                    f"larger than the canvas {height}x{width} of {file}; export the detector with a larger "
                    "--height and --width"
                )
                continue
            try:
                image = source.read_image(i)
            except UserError:
                continue
            canvas = np.zeros((count, height, width, 3), np.uint8)
            canvas[0, : size[0], : size[1]] = resize_image(image, tuple(size))
            found = exported.call(canvas, np.array([size] * count, np.int32))
            mask = np.asarray(found["mask"][0])
            boxes, scores, labels = (np.asarray(found[n][0])[mask] for n in ("boxes", "scores", "labels"))
            scale = np.tile(np.array(size[::-1]) / image.shape[1::-1], 2)
            yield Prediction(i, (boxes / scale).astype(np.float32), scores, labels)

    return predict, classes
