"""Draws images of a data set with the ground truth beside the detections."""

import numpy as np
from etils.epath import Path

from gfl_jax.data.source import Source
from gfl_jax.drawing import draw_comparison, save_png
from gfl_jax.evaluation.output_names import output_names
from gfl_jax.evaluation.results import Result


def snapshot_paths(folder: Path, prefix: str, source: Source, count: int) -> list[Path]:
    """The paths of the files that `save_snapshots` writes."""
    return [folder / name for name in output_names(source.file_names[: max(count, 0)], prefix=prefix)]


def save_snapshots(
    folder: Path, prefix: str, source: Source, results: list[Result], count: int = 4
) -> list[Path]:
    """Draws the first images of a source with their ground truth and detections, and saves them as PNG.

    Args:
      folder: folder for the PNG files, which are named after the images; their subfolders are kept if they
        differ.
      prefix: prefix of the file names.
      source: the evaluated data set.
      results: its detections in the COCO results format.
      count: number of images.
    """
    label_of = {category_id: label for label, category_id in enumerate(source.category_ids)}
    paths = snapshot_paths(folder, prefix, source, count)
    for i, path in enumerate(paths):
        example = source.example(i)
        found = [result for result in results if result["image_id"] == source.image_ids[i]]
        boxes = np.array([result["bbox"] for result in found], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        drawing = draw_comparison(
            example.image,
            example.boxes,
            boxes,
            np.array([result["score"] for result in found]),
            example.labels,
            np.array([label_of[result["category_id"]] for result in found], int),
            source.categories,
        )
        save_png(path, drawing)
    return paths
