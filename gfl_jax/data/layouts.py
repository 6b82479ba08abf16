"""Detects the layout of a folder that a labelling tool exported: its annotation files, splits and images.

Only COCO JSON files are used: Roboflow's (train/_annotations.coco.json, valid/...), CVAT's
(annotations/instances_default.json, images/), Label Studio's (result.json, images/), FiftyOne's (labels.json,
data/) and COCO's own. The name of a file or of its folders gives the split: training, evaluation or test.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from etils.epath import Path

from gfl_jax.data.coco_file import CocoFile, read_coco
from gfl_jax.errors import UserError
from gfl_jax.files import read_file
from gfl_jax.paths import as_path

_SPLITS = {"train": r"train(ing)?\d*", "eval": r"(val|valid|validation|eval)\d*", "test": r"test\d*"}
_DEPTH = 3  # levels of folders that are searched for annotations
_IMAGES_CHECKED = 20  # images of an annotation file that must exist in a folder


class Part(NamedTuple):
    """An annotation file, and the folder that its file names are relative to."""

    json: Path
    images: Path
    content: CocoFile


class Layout(NamedTuple):
    """The annotation files of a folder for training and evaluation."""

    train: Part
    evaluation: Part | None  # None: the folder has none, so some images of `train` must be held out


def find_layout(folder: str | Path) -> Layout:
    """Finds the annotation files and images of a folder.

    Raises:
      UserError: the folder does not exist, it has no COCO annotations, a split has several annotation files,
        or the images of an annotation file are not found.
    """
    root = as_path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: is not a folder; name a folder of images with annotations")
    files = [file for file in _json_files(root, _DEPTH) if _looks_like_coco(file)]
    if not files:
        raise UserError(
            f"{root}: has no annotations in COCO format (JSON with images, annotations and categories); "
            "export them as COCO, or convert them: see docs/own_data.md for YOLO and Pascal VOC"
        )
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, root), []).append(file)
    unnamed = by_split.pop("", [])
    if "train" not in by_split and len(unnamed) == 1:
        by_split["train"] = unnamed
    train = _only_file(root, "train", by_split.get("train", []))
    other = next((split for split in ("eval", "test") if split in by_split), None)
    evaluation = None if other is None else _part(_only_file(root, other, by_split[other]), root, other)
    return Layout(_part(train, root, "train"), evaluation)


def _json_files(folder: Path, depth: int) -> Iterator[Path]:
    """The JSON files in a folder and its subfolders, without hidden ones, in sorted order."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() == ".json":
            yield path
        elif depth and path.is_dir():
            yield from _json_files(path, depth - 1)


def _looks_like_coco(file: Path) -> bool:
    """Whether a file contains the keys of COCO box annotations; `read_coco` checks the rest."""
    text = read_file(file)
    return all(f'"{key}"'.encode() in text for key in ("images", "annotations", "categories", "bbox"))


def _split_of(file: Path, root: Path) -> str:
    """The split of a file, from the words in its name or else in its folders; "" if none names a split."""
    relative = file.relative_to(root)
    for part in (relative.stem, *reversed(relative.parts[:-1])):
        words = re.split(r"[^a-z0-9]+", part.lower())
        for split, word in _SPLITS.items():
            if any(re.fullmatch(word, w) for w in words):
                return split
    return ""


def _only_file(root: Path, split: str, files: list[Path]) -> Path:
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(
            f"{root}: none of its annotation files is marked as training data; name a file or its folder "
            "'train', and another one 'val'"
        )
    # COCO has a file of boxes ("instances") beside those of keypoints and captions.
    boxes = [file for file in files if "instances" in file.name]
    if len(boxes) == 1:
        return boxes[0]
    names = ", ".join(str(file.relative_to(root)) for file in files[:4])
    raise UserError(f"{root}: has {len(files)} annotation files for {split} ({names}); keep only one of them")


def _part(file: Path, root: Path, split: str) -> Part:
    content = read_coco(file)
    names = [name.replace("\\", "/") for name in content.file_names[:_IMAGES_CHECKED]]
    folders = _image_folders(file, root, split)
    found = next((f for f in folders if all((f / name).is_file() for name in names)), None)
    if found is None:
        raise UserError(
            f"{file}: its images, such as {content.file_names[0] if names else 'any'}, are not in {root}; "
            "put them beside the file, or into a folder `images`"
        )
    return Part(file, found, content)


def _image_folders(file: Path, root: Path, split: str) -> list[Path]:
    """Folders that may hold the images, the most likely first."""
    beside = [folder / name for folder in (file.parent, root) for name in ("", "images", "data")]
    below = [folder for folder in beside if folder.is_dir()]
    named = [
        path
        for folder in below
        for path in sorted(folder.iterdir())
        if path.is_dir() and (re.fullmatch(_SPLITS[split], path.name.lower()) or path.name == file.stem)
    ]
    inner = [path / name for path in named for name in ("images", "data")]
    return [*below, *named, *inner]
