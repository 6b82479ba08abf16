"""Pictures of a data set with the true boxes and the detected ones."""

import numpy as np
from etils.epath import Path

from gfl_jax.data.source import Source
from gfl_jax.drawing import draw_comparison, save_png
from gfl_jax.evaluation.output_names import output_names
from gfl_jax.evaluation.results import Result


def snapshot_paths(folder: Path, prefix: str, source: Source, count: int) -> list[Path]:
    """Where `save_snapshots` puts its pictures."""
    return [folder / name for name in output_names(source.file_names[: max(count, 0)], prefix=prefix)]


def save_snapshots(
    folder: Path, prefix: str, source: Source, results: list[Result], count: int = 4
) -> list[Path]:
    """Draws the first pictures of a source with their true boxes and detections.

    Args:
      folder: gets a PNG for each picture, named after it, with its folders if theirs differ.
      prefix: what stands before the name.
      source: what was evaluated.
      results: its detections in the COCO results format.
      count: how many pictures.
    """
    label_of = {category_id: label for label, category_id in enumerate(source.category_ids)}
    paths = snapshot_paths(folder, prefix, source, count)
    for i, path in enumerate(paths):
        example = source.example(i)
        found = [result for result in results if result["image_id"] == source.image_ids[i]]
        boxes = np.array([result["bbox"] for result in found], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        picture = draw_comparison(
            example.image,
            example.boxes,
            boxes,
            np.array([result["score"] for result in found]),
            example.labels,
            np.array([label_of[result["category_id"]] for result in found], int),
            source.categories,
        )
        save_png(path, picture)
    return paths
