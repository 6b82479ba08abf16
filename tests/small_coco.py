"""A small COCO tree with the special cases of the real one: crowds, empty images, gray and CMYK files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gfl_jax.data.coco_builder import Coco2017
from gfl_jax.data.coco_categories import COCO_CATEGORY_IDS, COCO_CATEGORY_NAMES

SIZES = ((60, 80), (80, 60), (48, 80), (64, 64), (80, 61), (57, 80), (60, 80))
MODES = ("RGB", "L", "CMYK", "RGB", "RGB", "RGB", "L")
EMPTY = 3  # the image without boxes


def write_coco(
    file: Path, images: Path, names: Sequence[str], categories: Sequence[str] = ("cat", "dog"), boxes: int = 1
) -> dict[str, Any]:
    """Writes an annotation file and images of 96 x 128 pixels, each with boxes of the first class."""
    listed = [{"id": i, "name": name} for i, name in enumerate(categories, 1)]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": listed}
    for i, name in enumerate(names):
        path = images / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (96, 128, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        content["images"].append({"id": i, "file_name": name, "height": 96, "width": 128})
        for _ in range(boxes):
            box = {
                "id": len(content["annotations"]),
                "image_id": i,
                "category_id": 1,
                "bbox": [30, 30, 40, 40],
            }
            content["annotations"].append(box)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return content


@pytest.fixture(scope="session")
def coco_tree(tmp_path_factory) -> Path:
    """A folder with annotations/instances_{train,val}2017.json, train2017/ and val2017/."""
    tree = tmp_path_factory.mktemp("coco")
    (tree / "annotations").mkdir()
    for part, seed in (("train2017", 0), ("val2017", 1)):
        rng = np.random.default_rng(seed)
        (tree / part).mkdir()
        data = {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": i, "name": name}
                for i, name in zip(COCO_CATEGORY_IDS, COCO_CATEGORY_NAMES, strict=True)
            ],
        }
        for i, ((height, width), mode) in enumerate(zip(SIZES, MODES, strict=True)):
            name = f"{1000 - i:012d}.jpg"
            pixels = rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
            image = Image.fromarray(pixels).resize((width, height)).convert(mode)
            image.save(tree / part / name, quality=95)
            data["images"].append({"id": 1000 - i, "file_name": name, "height": height, "width": width})
            for _ in range(0 if i == EMPTY else i + 1):
                x, y = rng.uniform(0, (width / 2, height / 2)).round(2)
                w, h = rng.uniform(2, (width / 2 - 1, height / 2 - 1)).round(2)
                data["annotations"].append(
                    {
                        "id": len(data["annotations"]) + 5,
                        "image_id": 1000 - i,
                        "category_id": int(rng.choice(COCO_CATEGORY_IDS)),
                        "bbox": [float(v) for v in (x, y, w, h)],
                        "area": float(round(w * h)),
                        "iscrowd": int(rng.random() < 0.2),
                    }
                )
        (tree / "annotations" / f"instances_{part}.json").write_text(json.dumps(data))
    return tree


@pytest.fixture(scope="session")
def prepared_coco(coco_tree, tmp_path_factory) -> Path:
    """The same data as a tfds directory, .../coco/2017/1.1.0."""
    builder = Coco2017(data_dir=tmp_path_factory.mktemp("tfds"), config="2017", file_format="array_record")
    options = tfds.download.DownloadConfig(manual_dir=coco_tree, try_download_gcs=False)
    builder.download_and_prepare(download_config=options)
    return Path(builder.data_dir)
