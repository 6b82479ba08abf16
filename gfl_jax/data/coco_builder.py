"""tfds `coco/2017` from an unzipped COCO tree, without TensorFlow.

Features, names, order and version are those of the official builder, so that what either
has prepared is read in the same way. The tree is COCO's own:

    annotations/instances_train2017.json  train2017/
    annotations/instances_val2017.json    val2017/
    annotations/image_info_test2017.json  test2017/    (optional)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gfl_jax.data.coco_json import load_coco_json, read_categories
from gfl_jax.data.tfds_features import detection_features, relative_box
from gfl_jax.errors import UserError

_SPLITS = {"train": "train2017", "validation": "val2017"}
_TEST = "test2017"


class Coco2017(tfds.core.GeneratorBasedBuilder):
    """Reads the tree from the manual download folder."""

    name = "coco"
    BUILDER_CONFIGS = [  # noqa: RUF012 - tfds' own way
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
        data = load_coco_json(annotations, ("images", "categories"))  # that of the test split has no boxes
        names, ids = read_categories(annotations, data)
        self.info.features["objects"]["label"].names = list(names)
        name_of = dict(zip(ids, names, strict=True))
        objects: dict[int, list[dict[str, Any]]] = {}
        for annotation in sorted(data.get("annotations", []), key=lambda annotation: annotation["id"]):
            objects.setdefault(annotation["image_id"], []).append(annotation)
        for image in sorted(data["images"], key=lambda image: image["id"]):
            size = image["height"], image["width"]
            yield (
                image["file_name"],
                {
                    "image": folder / image["file_name"],
                    "image/filename": image["file_name"],
                    "image/id": image["id"],
                    "objects": [
                        _object(annotation, size, name_of, annotations)
                        for annotation in objects.get(image["id"], [])
                    ],
                },
            )


def _object(
    annotation: dict[str, Any], size: tuple[int, int], name_of: dict[int, str], path: Path
) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    box = relative_box(x, y, x + width, y + height, size)
    if not (0 <= box.xmin <= box.xmax <= 1 and 0 <= box.ymin <= box.ymax <= 1):
        raise UserError(
            f"{path}: the box of annotation {annotation['id']}, {annotation['bbox']}, is not inside its "
            "picture, which tfds does not allow; correct it"
        )
    return {
        "id": annotation["id"],
        "area": annotation.get("area", width * height),
        "bbox": box,
        "label": name_of[annotation["category_id"]],
        "is_crowd": bool(annotation.get("iscrowd", 0)),
    }
