"""Opens a data set that is a COCO annotation file and a folder of images."""

from collections.abc import Sequence

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Int, UInt8

from gfl_jax.data.annotations import build_annotations
from gfl_jax.data.coco_file import read_coco
from gfl_jax.data.headers import Orientation, as_displayed, read_headers
from gfl_jax.data.images import decode_image
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import read_file
from gfl_jax.paths import as_path


def coco_json_source(
    annotations: str | Path, images: str | Path, orientation: Orientation = "auto"
) -> Source:
    """Reads the annotations and checks that every image exists and has the annotated size.

    Args:
      annotations: a JSON file in COCO's detection format ("instances"), or without annotations
        ("image_info").
      images: the folder that the file names in the JSON are relative to.
      orientation: how the boxes of images with an EXIF orientation were drawn (see `headers`).

    Raises:
      UserError: the JSON file is missing, broken or lacks keys, or an image is missing, unreadable or has
        another size.
    """
    folder = as_path(images)
    truth = read_coco(annotations)
    paths = _image_paths(truth.name, folder, truth.file_names)
    headers = read_headers(paths)
    table = build_annotations(
        name=truth.name,
        sizes=truth.sizes,
        image_ids=truth.image_ids,
        file_names=truth.file_names,
        image_index=truth.image_index,
        boxes_xywh=truth.boxes_xywh,
        labels=truth.labels,
        is_crowd=truth.is_crowd,
        area=truth.area,
        ignored=truth.ignored,
        fingerprints=headers.fingerprints,
    )
    displayed = as_displayed(truth.name, truth.file_names, truth.sizes, headers, orientation)
    read_image = _FolderImages(paths, table.sizes, displayed)
    annotated = truth.annotated and bool(table.annotated.any())
    return Source(truth.name, *truth.categories, table, read_image, truth, annotated)


class _FolderImages:
    """Reads images of a folder by their position in the annotations."""

    def __init__(
        self,
        paths: Sequence[Path],
        sizes: Int[np.ndarray, "images 2"],
        displayed: Bool[np.ndarray, "images"],
    ) -> None:
        self.paths, self.sizes, self.displayed = list(map(str, paths)), sizes, displayed

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        path, (height, width) = self.paths[i], self.sizes[i].tolist()
        return decode_image(read_file(path), path, (height, width), bool(self.displayed[i]))


def _image_paths(name: str, folder: Path, file_names: Sequence[str]) -> list[Path]:
    """The paths of the images; a backslash in a name, as Windows writes it, may separate folders."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name the folder with the images of {name}")
    present = {path.name for path in folder.iterdir()}  # much faster than a check of each file
    paths, missing = [], []
    for file_name in file_names:
        path = folder / file_name
        if "\\" in file_name and not _is_file(path):
            path = folder / file_name.replace("\\", "/")
        if file_name not in present and not _is_file(path):
            missing.append(path)
        paths.append(path)
    if missing:
        raise UserError(
            f"{missing[0]}: is missing; {len(missing)} of {len(file_names)} images named in {name} are "
            "missing; add them or remove them from the annotations"
        )
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for example, the name is too long
        return False
