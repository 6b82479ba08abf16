"""Folders of annotated images as labelling tools export them: which file is for what, where its images are.

All that counts is COCO's JSON: Roboflow's (train/_annotations.coco.json, valid/...), CVAT's
(annotations/instances_default.json, images/), Label Studio's (result.json, images/), FiftyOne's (labels.json,
data/) and COCO's own. Whether a file is for training, evaluation or testing is told by its name or folders.
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
_DEPTH = 3  # of folders in which annotations are looked for
_LOOKED_AT = 20  # images of a file that are looked for in a folder


class Part(NamedTuple):
    """An annotation file and the folder that its file names are relative to."""

    json: Path
    images: Path
    content: CocoFile


class Layout(NamedTuple):
    """What a folder has."""

    train: Part
    evaluation: Part | None  # None: it has none, so some of the images of `train` have to be held out


def find_layout(folder: str | Path) -> Layout:
    """The annotations and images of a folder.

    Raises:
      UserError: there is no such folder, it has no COCO annotations or more than can be told apart, or the
        images of a file are nowhere.
    """
    place = as_path(folder)
    if not place.is_dir():
        raise UserError(f"{place}: there is no such folder of images with annotations; check the path")
    files = [file for file in _json_files(place, _DEPTH) if _looks_like_coco(file)]
    if not files:
        raise UserError(
            f"{place}: has no annotations in COCO's format (a JSON with images, annotations and categories); "
            "export them as COCO, or convert them: see the README for YOLO and Pascal VOC"
        )
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, place), []).append(file)
    whole = by_split.pop("", [])
    if "train" not in by_split and len(whole) == 1:
        by_split["train"] = whole
    train = _the_one(place, "train", by_split.get("train", []))
    other = next((split for split in ("eval", "test") if split in by_split), None)
    evaluation = None if other is None else _part(_the_one(place, other, by_split[other]), place, other)
    return Layout(_part(train, place, "train"), evaluation)


def _json_files(folder: Path, depth: int) -> Iterator[Path]:
    """The JSON files of a folder and of those below it, hidden ones left out; the same order everywhere."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() == ".json":
            yield path
        elif depth and path.is_dir():
            yield from _json_files(path, depth - 1)


def _looks_like_coco(file: Path) -> bool:
    """Whether a file names the lists of annotations of boxes; what is wrong in it is told when it is read."""
    text = read_file(file)
    return all(f'"{key}"'.encode() in text for key in ("images", "annotations", "categories", "bbox"))


def _split_of(file: Path, place: Path) -> str:
    """What a file is for, by the words of its name and then of its folders; "" if nothing tells."""
    relative = file.relative_to(place)
    for part in (relative.stem, *reversed(relative.parts[:-1])):
        words = re.split(r"[^a-z0-9]+", part.lower())
        for split, word in _SPLITS.items():
            if any(re.fullmatch(word, w) for w in words):
                return split
    return ""


def _the_one(place: Path, split: str, files: list[Path]) -> Path:
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(
            f"{place}: nothing tells which of its annotations are for training; name a file or a folder of "
            "them 'train', and one 'val'"
        )
    # Of COCO itself: those of boxes, not of keypoints or captions.
    boxes = [file for file in files if "instances" in file.name]
    if len(boxes) == 1:
        return boxes[0]
    names = ", ".join(str(file.relative_to(place)) for file in files[:4])
    raise UserError(f"{place}: has {len(files)} annotation files for {split} ({names}); leave one of them")


def _part(file: Path, place: Path, split: str) -> Part:
    content = read_coco(file)
    names = [name.replace("\\", "/") for name in content.file_names[:_LOOKED_AT]]
    folders = _image_folders(file, place, split)
    found = next((f for f in folders if all((f / name).is_file() for name in names)), None)
    if found is None:
        raise UserError(
            f"{file}: its images, such as {content.file_names[0] if names else 'any'}, are not in {place}; "
            "put them beside it, or into a folder `images`"
        )
    return Part(file, found, content)


def _image_folders(file: Path, place: Path, split: str) -> list[Path]:
    """Where images may be, the likeliest first."""
    beside = [folder / name for folder in (file.parent, place) for name in ("", "images", "data")]
    below = [folder for folder in beside if folder.is_dir()]
    named = [
        path
        for folder in below
        for path in sorted(folder.iterdir())
        if path.is_dir() and (re.fullmatch(_SPLITS[split], path.name.lower()) or path.name == file.stem)
    ]
    inner = [path / name for path in named for name in ("images", "data")]
    return [*below, *named, *inner]
