"""Builds tfds `coco/2017` from an unzipped COCO tree, without TensorFlow.

Features, names, order and version match the official builder, so data sets from both builders are read
in the same way. The tree has COCO's own layout:

    annotations/instances_train2017.json  train2017/
    annotations/instances_val2017.json    val2017/
    annotations/image_info_test2017.json  test2017/    (optional)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gfl_jax.data.coco_file import CocoFile, load_coco_json, parse_coco
from gfl_jax.data.tfds_features import detection_features, relative_box
from gfl_jax.errors import UserError

_SPLITS = {"train": "train2017", "validation": "val2017"}
_TEST = "test2017"


class Coco2017(tfds.core.GeneratorBasedBuilder):
    """Reads the COCO tree from the manual download folder."""

    name = "coco"
    BUILDER_CONFIGS = [  # noqa: RUF012 - tfds expects a class attribute
        tfds.core.BuilderConfig(name="2017", version=tfds.core.Version("1.1.0"))
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unzip the files of https://cocodataset.org into one folder."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="COCO 2017, in the layout of the official builder.",
            features=detection_features("jpeg", 80),
            homepage="http://cocodataset.org/#home",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        tree = Path(dl_manager.manual_dir)
        splits = {
            split: (tree / "annotations" / f"instances_{folder}.json", tree / folder)
            for split, folder in _SPLITS.items()
        }
        test_file = tree / "annotations" / f"image_info_{_TEST}.json"
        if test_file.is_file() and (tree / _TEST).is_dir():
            splits["test"] = (test_file, tree / _TEST)
        return {split: self._generate_examples(*paths) for split, paths in splits.items()}

    def _generate_examples(self, annotations: Path, folder: Path) -> Iterator[tuple[str, Any]]:
        content = load_coco_json(annotations, ("images", "categories"))  # COCO's test split has no boxes
        file = parse_coco(content, str(annotations))
        self.info.features["objects"]["label"].names = list(file.categories.names)
        wide = [id for id in file.image_ids if not _is_int64(id)]
        if wide:
            raise UserError(
                f"{file.name}: the image id {wide[0]!r} is not a 64-bit integer, as tfds needs; change it"
            )
        numbers = [
            number if _is_int64(number := annotation.get("id")) else row
            for row, annotation in enumerate(content.get("annotations", []), start=1)
        ]
        rows: dict[int, list[int]] = {}
        for row in sorted(range(len(numbers)), key=numbers.__getitem__):
            rows.setdefault(int(file.image_index[row]), []).append(row)
        for i in np.argsort(np.array(file.image_ids, np.int64)).tolist():
            yield (
                file.file_names[i],
                {
                    "image": folder / file.file_names[i],
                    "image/filename": file.file_names[i],
                    "image/id": file.image_ids[i],
                    "objects": [_object(file, i, row, numbers[row]) for row in rows.get(i, [])],
                },
            )


def _is_int64(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _object(file: CocoFile, i: int, row: int, number: int) -> dict[str, Any]:
    """The annotation in one row of a file, which belongs to image i."""
    x, y, width, height = file.boxes_xywh[row].tolist()
    box = relative_box(x, y, x + width, y + height, tuple(file.sizes[i].tolist()))
    if not (0 <= box.xmin <= box.xmax <= 1 and 0 <= box.ymin <= box.ymax <= 1):
        raise UserError(
            f"{file.name}: the box of annotation {number}, {[x, y, width, height]}, is not inside its "
            "image, but tfds requires this; correct the box"
        )
    area = float(file.area[row])
    return {
        "id": number,
        "area": width * height if np.isnan(area) else area,
        "bbox": box,
        "label": file.categories.names[file.labels[row]],
        "is_crowd": bool(file.is_crowd[row]),
    }
