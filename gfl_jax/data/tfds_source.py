"""Opens a data set prepared by tfds as `array_record`, in the layout of the official `coco/2017`.

tfds stores boxes divided by the image size, so the sizes are needed to get pixels. They are read from the
image headers in one pass over the records. The result, the index, is cached beside the data set, or in the
user's cache folder if the folder of the data set is not writable.
"""

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rich.progress
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from rich.markup import escape

from gfl_jax.data.annotations import build_annotations
from gfl_jax.data.coco_categories import COCO_CATEGORY_IDS, COCO_CATEGORY_NAMES
from gfl_jax.data.headers import Header, Headers, Orientation, as_table, fingerprint
from gfl_jax.data.images import decode_image, image_header
from gfl_jax.data.source import Source
from gfl_jax.errors import UserError
from gfl_jax.files import retrying, write_file
from gfl_jax.paths import require_local

_INDEX_VERSION = "2"


def tfds_source(directory: str | Path, split: str, orientation: Orientation = "auto") -> Source:
    """Opens one split of a prepared tfds data set.

    Category ids are the official ones (1..90) for COCO's 80 categories, otherwise 1..n.

    Args:
      directory: .../NAME/VERSION or .../NAME/CONFIG/VERSION, with `dataset_info.json`.
      split: a name such as "train", or a slice such as "train[:100]".
      orientation: whether the relative boxes refer to the displayed or the raw image, for images with an
        EXIF orientation; "auto" means "display", because the data do not show it.

    Raises:
      UserError: the data set or the split does not exist, or it is not for object detection.
    """
    require_local(directory, "prepared tfds data sets")
    directory = Path(os.path.expanduser(directory))
    if not (directory / "dataset_info.json").is_file():
        raise UserError(
            f"{directory}: has no prepared data set; make it with: {_preparing_command(directory)}"
        )
    with _damage_named(directory):
        builder = tfds.builder_from_directory(directory)
    name = f"{directory} ({split})"
    try:
        decoders = {"image": tfds.decode.SkipDecoding()}
        records = builder.as_data_source(split, decoders=decoders)
        length = len(records)
    except (ValueError, KeyError) as error:
        known = ", ".join(builder.info.splits)
        raise UserError(f"{name}: there is no such split; the splits are: {known}") from error
    except NotImplementedError as error:
        raise UserError(
            f"{directory}: is not stored as array_record; prepare it again with file_format='array_record'"
        ) from error
    except Exception as error:
        raise _damaged(directory, error) from error
    categories = _category_names(builder.info.features, directory)
    official = dict(zip(COCO_CATEGORY_NAMES, COCO_CATEGORY_IDS, strict=True))
    own = set(categories) == set(official)
    ids = tuple(official[c] for c in categories) if own else tuple(range(1, len(categories) + 1))
    key = f"{_INDEX_VERSION} {split} {length} {(directory / 'dataset_info.json').read_text()}"
    with _damage_named(directory):
        index = _cached_index(directory, split, key, name, records)
    headers = Headers(index["sizes"], index["orientations"], index["fingerprints"])
    whole_sizes = headers.sizes if orientation == "raw" else headers.displayed
    sizes = whole_sizes.astype(np.float64)
    low, high = index["boxes"][:, 1::-1].astype(np.float64), index["boxes"][:, :1:-1].astype(np.float64)
    scale = sizes[index["image_index"]][:, ::-1]
    # A float32 share times the size is exact to the two decimals of COCO's files.
    boxes_xywh = np.round(np.concatenate([low * scale, (high - low) * scale], axis=1), 2)
    table = build_annotations(
        name=name,
        sizes=whole_sizes,
        image_ids=index["image_ids"].tolist(),
        file_names=tuple(index["file_names"].tolist()),
        image_index=index["image_index"],
        boxes_xywh=boxes_xywh,
        labels=index["labels"],
        is_crowd=index["is_crowd"],
        # tfds truncates areas to integers: 0 is the area of an object below one pixel.
        area=np.where(index["area"] == 0, 0.5, index["area"]),
        fingerprints=headers.fingerprints,
    )
    read_image = _RecordImages(records, table.file_names, displayed=orientation != "raw")
    return Source(name, categories, ids, table, read_image, annotated=bool(table.annotated.any()))


class _RecordImages:
    """Reads images of tfds records by position."""

    def __init__(self, records: Any, file_names: tuple[str, ...], displayed: bool) -> None:
        self.records, self.file_names, self.displayed = records, file_names, displayed

    def __call__(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        name = self.file_names[i]
        encoded = retrying(lambda: self.records[i]["image"], f"{name}: cannot be read")
        return decode_image(encoded, name, displayed=self.displayed)


@contextlib.contextmanager
def _damage_named(directory: Path) -> Iterator[None]:
    """Turns the errors of tfds and array_record about damaged or missing files into a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(directory, error) from error


def _damaged(directory: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return UserError(
        f"{directory}: is damaged, or was made by another version of tfds ({reason}); make it again with: "
        f"{_preparing_command(directory)}"
    )


def _category_names(features: Any, directory: Path) -> tuple[str, ...]:
    try:
        return tuple(features["objects"].feature["label"].names)
    except (KeyError, AttributeError) as error:
        raise UserError(
            f"{directory}: has no 'objects' with 'label'; name a detection data set in the layout of "
            "coco/2017"
        ) from error


def _preparing_command(directory: Path) -> str:
    command = "python scripts/prepare_dataset.py"
    if "aerial_trees" in directory.parts:
        return f"{command} trees"
    if "composed_digits" in directory.parts:
        return f"{command} digits"
    return f"{command} coco2017 --coco-dir DIR" if "coco" in directory.parts else f"{command} --help"


def _cached_index(directory: Path, split: str, key: str, name: str, records: Any) -> dict[str, np.ndarray]:
    """The index of a split, which is read from a cache, or made and cached."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    file_name = f"gfl_jax_index_{digest}.npz"
    paths = [directory / file_name, Path(caches) / "gfl_jax" / file_name]
    for path in paths:
        try:
            with open(path, "rb") as file, np.load(file) as stored:
                return dict(stored)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            continue  # missing or incomplete
    index = _make_index(name, records)
    for path in paths:
        try:
            _save(path, index)
            break
        except (UserError, OSError):
            continue  # not writable
    return index


def _make_index(name: str, records: Any) -> dict[str, np.ndarray]:
    """Reads sizes, names and boxes of all records; boxes stay as stored: [ymin, xmin, ymax, xmax] / size."""
    headers, ids, file_names, counts = [], [], [], []
    columns: dict[str, list[np.ndarray]] = {"boxes": [], "labels": [], "is_crowd": [], "area": []}
    steps = rich.progress.track(
        range(len(records)), f"Reading sizes of {escape(name)}", transient=True, disable=len(records) < 1000
    )
    for i in steps:
        record = records[i]
        file_names.append(_text(record.get("image/filename", f"record {i}")))
        ids.append(int(record.get("image/id", i + 1)))
        encoded = record["image"]
        header = image_header(io.BytesIO(encoded), f"{name}: {file_names[-1]}")
        headers.append(Header(*header, fingerprint(encoded, len(encoded))))
        objects = record["objects"]
        count = len(objects["label"])
        counts.append(count)
        columns["boxes"].append(np.asarray(objects["bbox"], np.float32).reshape(count, 4))
        columns["labels"].append(np.asarray(objects["label"], np.int32))
        columns["is_crowd"].append(np.asarray(objects.get("is_crowd", [False] * count), bool))
        columns["area"].append(np.asarray(objects.get("area", [np.nan] * count), np.float64))
    return {
        **as_table(headers)._asdict(),
        "image_ids": np.array(ids, np.int64),
        "file_names": np.array(file_names),
        "image_index": np.repeat(np.arange(len(counts)), counts),
        **{key: np.concatenate(parts) for key, parts in columns.items() if parts},
    }


def _save(path: Path, index: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **index)
    write_file(path, content.getvalue())


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
