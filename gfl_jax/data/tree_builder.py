"""Builds the small data set of the demo: trees on aerial images, as tfds `array_record`.

The aerial images (of the National Ecological Observatory Network) and their boxes come with the Python wheel
`deepforest` (MIT licence). The wheel is read as a zip file and never installed.
"""

import xml.etree.ElementTree
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from gfl_jax.data.images import decode_image, encode_png
from gfl_jax.data.tfds_features import detection_example, detection_features

WHEEL = "deepforest-2.1.0-py3-none-any.whl"
WHEEL_SHA256 = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"

_TRAIN = "2019_YELL_2_528000_4978000_image_crop2"
_HELD_OUT = "2019_YELL_2_541000_4977000_image_crop"
_FAR = "OSBS_029"


class View(NamedTuple):
    """The columns from `left` to `right` of an aerial image, as shares of its width; by default all."""

    image_name: str
    left: float = 0.0
    right: float = 1.0

    def columns(self, width: int) -> tuple[int, int]:
        """The first column, and the column after the last, of an image with this width."""
        return round(self.left * width), round(self.right * width)


# The tune splits cut the training image in two. With them, hyperparameters can be chosen without the
# held-out image.
SPLITS = {
    "train": View(_TRAIN),
    "validation": View(_HELD_OUT),
    "far": View(_FAR),
    "tune_train": View(_TRAIN, 0.0, 0.75),
    "tune_validation": View(_TRAIN, 0.75, 1.0),
}


class AerialTrees(tfds.core.GeneratorBasedBuilder):
    """Reads the wheel from the manual download folder; each split is one image."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "pip download --no-deps deepforest==2.1.0"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tree crowns on aerial images, in the layout of coco/2017.",
            features=detection_features("png", 1, ["Tree"]),
            homepage="https://github.com/weecology/DeepForest",
            license="MIT",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        wheel = dl_manager.manual_dir / WHEEL
        return {
            split: self._generate_examples(wheel, view, image_id)
            for image_id, (split, view) in enumerate(SPLITS.items(), start=1)
        }

    def _generate_examples(self, wheel: Any, view: View, image_id: int) -> Iterator[tuple[str, Any]]:
        with zipfile.ZipFile(wheel) as archive:
            encoded = archive.read(f"deepforest/data/{view.image_name}.png")
            boxes = _read_boxes(archive.read(f"deepforest/data/{view.image_name}.xml"))
        name = f"{view.image_name}.png"
        image = decode_image(encoded, name)
        if (view.left, view.right) != (0.0, 1.0):
            left, right = view.columns(image.shape[1])
            image, boxes = _cut(image, boxes, left, right)
            encoded, name = encode_png(image), f"{view.image_name}_columns_{left}_{right}.png"
        objects = [("Tree", box) for box in boxes.tolist()]
        yield name, detection_example(encoded, name, image_id, image.shape[:2], objects)


def _read_boxes(annotation: bytes) -> Float[np.ndarray, "n 4"]:
    """The boxes (xyxy) of a Pascal VOC file; every object counts as a tree, regardless of its name."""
    root = xml.etree.ElementTree.fromstring(annotation)
    corners = [
        [float(box.findtext(side, "nan")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for box in root.iter("bndbox")
    ]
    return np.array(corners, np.float64).reshape(-1, 4)


def _cut(
    image: UInt8[np.ndarray, "height width 3"], boxes: Float[np.ndarray, "n 4"], left: int, right: int
) -> tuple[UInt8[np.ndarray, "height new_width 3"], Float[np.ndarray, "m 4"]]:
    """Cuts out the columns from `left` to `right`; boxes at least half inside are kept and clipped."""
    clipped = boxes.copy()
    clipped[:, ::2] = np.clip(boxes[:, ::2], left, right)
    share = (clipped[:, 2] - clipped[:, 0]) / (boxes[:, 2] - boxes[:, 0])
    return image[:, left:right], (clipped - [left, 0, left, 0])[share >= 0.5]
