"""Exports a trained detector with its weights to one file that needs only jax (`jax.export`).

The file contains only the output of `jax.export.Exported.serialize`, so one line of jax loads it. A small
JSON file beside it has the data that jax does not need: the names of the classes, the canvas, and the resize
that the detector was trained for.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from etils.epath import Path
from jaxtyping import Array, Int, UInt8

from gfl_jax.config import Config
from gfl_jax.data.buckets import by_area
from gfl_jax.data.plan import named_buckets
from gfl_jax.errors import UserError
from gfl_jax.files import require_writable_file, write_files
from gfl_jax.inference.detect import make_detect
from gfl_jax.models.network import build_detector
from gfl_jax.structures import SIZE_DIVISOR, Images
from gfl_jax.training.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")

LOADER = """\
from pathlib import Path

import jax.export
import numpy as np

exported = jax.export.deserialize(bytearray(Path({file}).read_bytes()))


def detect(image):  # uint8 RGB (height, width, 3), at most as large as the canvas
    canvas = np.zeros((1, *exported.in_avals[0].shape[1:]), np.uint8)
    canvas[0, : image.shape[0], : image.shape[1]] = image
    found = exported.call(canvas, np.array([image.shape[:2]], np.int32))
    return {{name: np.asarray(found[name][0])[found["mask"][0]] for name in ("boxes", "scores", "labels")}}
"""


def loader_code(file: str) -> str:
    """Python code that runs an exported file (with batch 1 or any batch) without this package."""
    return LOADER.format(file=json.dumps(file))


def export_detector(
    detector: Trained,
    output: Path,
    canvas: tuple[int | None, int | None] = (None, None),
    platforms: Sequence[str] = PLATFORMS,
    batch: int | None = None,
) -> None:
    """Writes `output` and `output`.json.

    The exported function takes uint8 RGB images (batch, height, width, 3) in the upper left corner of the
    canvas, and their int32 sizes (height, width). The pixels beyond an image do not matter. It returns a dict
    of "boxes" (batch, n, 4) in pixels of these images, "scores", "labels" and "mask". The caller resizes the
    images. Test scales and flips are not included.

    Args:
      detector: the detector, with the names of its classes.
      output: path of the file.
      canvas: (height, width) of the canvas; None: that of the largest bucket.
      platforms: platforms to run on, from PLATFORMS.
      batch: number of images in a call; None: any number, and each number is compiled on first use.

    Raises:
      UserError: a platform is unknown, the canvas or the batch is invalid, or a file cannot be written.
    """
    config, categories = detector.config, detector.named_classes()
    height, width = canvas
    if height is None or width is None:
        largest = by_area(named_buckets(config, "--height and --width"))[-1]
        height, width = (own if own is not None else side for own, side in zip(canvas, largest, strict=True))
    _check(height, width, platforms, batch)
    beside = output.with_name(f"{output.name}.json")
    for file in (output, beside):
        require_writable_file(file)
    detect = exportable(config, detector.variables)
    count = jax.export.symbolic_shape("batch")[0] if batch is None else batch
    shapes = (
        jax.ShapeDtypeStruct((count, height, width, 3), np.uint8),
        jax.ShapeDtypeStruct((count, 2), np.int32),
    )
    exported = jax.export.export(jax.jit(detect), platforms=tuple(platforms))(*shapes)
    about = {
        "canvas": [height, width],
        "batch": batch,
        "platforms": list(platforms),
        "resize": {"short_side": config.resize.short_side, "long_side": config.resize.long_side},
        "categories": list(categories.names),
        "category_ids": list(categories.ids),
        "jax": jax.__version__,
    }
    write_files({output: bytes(exported.serialize()), beside: json.dumps(about, indent=1)})


def exportable(config: Config, variables: Any) -> Any:
    """The exported function (images, image_sizes) -> dict of arrays, which includes the weights."""
    model = build_detector(config.detector, config.precision)
    detect = make_detect(model, config.normalization, config.inference)

    def run(
        images: UInt8[Array, "batch height width 3"], image_sizes: Int[Array, "batch 2"]
    ) -> dict[str, Array]:
        count = images.shape[0]
        indices = jnp.zeros(count, jnp.int32)
        found = detect(variables, Images(images, image_sizes, jnp.ones((count, 2)), indices))
        return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}

    return run


def _check(height: int, width: int, platforms: Sequence[str], batch: int | None) -> None:
    for name, value in (("--height", height), ("--width", width)):
        if value < SIZE_DIVISOR or value % SIZE_DIVISOR:
            raise UserError(
                f"{name}={value}: must be a positive multiple of {SIZE_DIVISOR}, such as 800 or 1344"
            )
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(
                f"--platforms {platform}: there is no such platform; choose from {', '.join(PLATFORMS)}"
            )
    if batch is not None and batch < 1:
        raise UserError(f"--batch={batch}: must be at least 1; omit it for any number")
