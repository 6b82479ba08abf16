"""Makes a small data set to try fine-tuning: tiles of the demo's aerial images at half their resolution.

The folder has the layout of a Roboflow export. At half the resolution trees are half as large as those that
the packaged model gfl_trees knows.

python scripts/prepare_dataset.py trees
python scripts/tree_tiles.py --output=data/tree_tiles
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gfl_jax.data.source import Example  # noqa: E402
from gfl_jax.data.tfds_source import tfds_source  # noqa: E402
from gfl_jax.drawing.png import save_png  # noqa: E402
from gfl_jax.errors import UserError, exit_status  # noqa: E402
from gfl_jax.files import require_writable, write_file  # noqa: E402
from gfl_jax.paths import local_path  # noqa: E402

SPLITS = {"train": "train", "valid": "validation"}  # Roboflow's folders, and the splits of the trees
SIDE = 256  # of a tile, in pixels
STEP = 192  # between tiles: they overlap, so that most trees are whole in one of them
LEAST_VISIBLE = 0.5  # share of a box's area; boxes with less inside a tile are left out
CATEGORIES = [{"id": 1, "name": "Tree"}]  # as gfl_trees calls it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 2 after bad input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trees",
        type=local_path,
        default=Path("data/aerial_trees/1.0.0"),
        metavar="DIR",
        help="the prepared trees (default data/aerial_trees/1.0.0)",
    )
    parser.add_argument("--output", type=local_path, required=True, metavar="DIR", help="a new folder")
    return exit_status(lambda: run(parser.parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Writes the folder."""
    if args.output.exists():
        raise UserError(f"--output={args.output}: exists already; give a new folder")
    sources = {folder: tfds_source(args.trees, split) for folder, split in SPLITS.items()}
    require_writable(args.output)
    for folder, source in sources.items():
        examples = [at_half_resolution(source.example(i)) for i in range(len(source))]
        count = write_tiles(examples, args.output / folder)
        print(f"{args.output / folder}: {count} tiles of {SIDE} x {SIDE} pixels")
    return 0


def at_half_resolution(example: Example) -> Example:
    """An image and its boxes at half of their size."""
    height, width = example.image.shape[:2]
    image = cv2.resize(example.image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return example._replace(image=np.asarray(image, np.uint8), boxes=example.boxes / 2)


def write_tiles(examples: Sequence[Example], folder: Path) -> int:
    """Writes the tiles of images, and their COCO annotations last; returns how many there are."""
    folder.mkdir(parents=True)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for example in examples:
        height, width = example.image.shape[:2]
        for top in starts(height):
            for left in starts(width):
                tile = example.image[top : top + SIDE, left : left + SIDE]
                name, number = f"tile_{len(images):03d}.png", len(images) + 1
                save_png(folder / name, tile)
                size = {"height": tile.shape[0], "width": tile.shape[1]}
                images.append({"id": number, "file_name": name, **size})
                for box in boxes_inside(example, left, top):
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": number,
                            "category_id": 1,
                            "bbox": box,
                            "area": box[2] * box[3],
                            "iscrowd": 0,
                        }
                    )
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    write_file(folder / "_annotations.coco.json", json.dumps(content))
    return len(images)


def starts(length: int) -> list[int]:
    """Where the tiles along a side begin; the last one ends with the image."""
    last = max(length - SIDE, 0)
    return [*range(0, last, STEP), last]


def boxes_inside(example: Example, left: int, top: int) -> list[list[float]]:
    """The boxes of a tile as (x, y, width, height) in its pixels, clipped."""
    clipped = np.clip(example.boxes - [left, top, left, top], 0, SIDE)
    sizes, whole = clipped[:, 2:] - clipped[:, :2], example.boxes[:, 2:] - example.boxes[:, :2]
    visible = np.prod(sizes, axis=1) >= LEAST_VISIBLE * np.prod(whole, axis=1)
    return np.concatenate([clipped[:, :2], sizes], axis=1)[visible].astype(float).tolist()


if __name__ == "__main__":
    sys.exit(main())
