"""Describes a data set for a detector: counts, sizes, and which level learns from which boxes."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from gfl_jax import config
from gfl_jax.analysis.text_tables import Cell, Table
from gfl_jax.axes.assigner import assign_targets, canvas_locations
from gfl_jax.configuration.overrides import override
from gfl_jax.data.loader import train_batches
from gfl_jax.data.source import Source
from gfl_jax.drawing.canvas import Image, enlarged, header, paint_boxes, style_of
from gfl_jax.drawing.detections import class_color
from gfl_jax.pixel_blocks import canvas_size, to_pixels
from gfl_jax.structures import Batch

UNASSIGNED_COLOR = (255, 0, 0)  # of boxes that no location learns from


class TrainingImage(NamedTuple):
    """An image as the network sees it in training, with its boxes."""

    image: Image
    position: int  # in the source
    boxes: Float[np.ndarray, "n 4"]
    positives: Int[np.ndarray, "n levels"]  # number of locations that learn from each box

    @property
    def levels(self) -> Int[np.ndarray, " n"]:
        """The level with most positives of each box; -1 for a box without positives."""
        return np.where(self.positives.any(axis=1), self.positives.argmax(axis=1), -1)


def training_images(source: Source, experiment: config.Config, count: int) -> Iterator[TrainingImage]:
    """Yields the first images of a run, after its crops and resizing, with the positives of their boxes."""
    detector = experiment.detector
    # In this process: workers that are stopped early print warnings about their shared memory.
    experiment = override(experiment, {"loader.workers": 0})
    measure = jax.jit(functools.partial(_count_positives, detector=detector))
    with train_batches(source, experiment) as batches:
        while count > 0:
            batch = next(batches)
            positives = np.asarray(measure(batch))
            for row in range(min(count, len(batch.images))):
                height, width = batch.image_sizes[row].tolist()
                mask = np.asarray(batch.box_mask[row])
                image = np.asarray(to_pixels(batch.images[row : row + 1])[0, :height, :width])
                boxes = np.asarray(batch.boxes[row])[mask]
                yield TrainingImage(image, int(batch.indices[row]), boxes, positives[row][mask])
            count -= len(batch.images)


def _count_positives(batch: Batch, detector: config.Detector) -> Int[jax.Array, "batch boxes levels"]:
    """Counts the locations of each level that learn from each box."""
    locations = canvas_locations(canvas_size(batch.images), detector.strides, detector.assigner)
    targets = assign_targets(batch, locations, detector.strides, detector.assigner)
    levels = jnp.asarray(np.searchsorted(np.array(detector.strides), locations.strides))

    def of_image(box_index: Int[jax.Array, " locations"]) -> Int[jax.Array, "boxes levels"]:
        counts = jnp.zeros((batch.boxes.shape[1] + 1, len(detector.strides)), int)
        return counts.at[box_index, levels].add(1)[:-1]  # the last row, index -1, is no box

    return jax.vmap(of_image)(targets.box_index)


def data_table(sources: dict[str, Source]) -> Table:
    """A table of the counts and sizes of data sets, side by side."""
    columns = [_description(source) for source in sources.values()]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return Table("images and boxes (smallest / median / largest)", ("", *sources), rows)


def _description(source: Source) -> dict[str, Cell]:
    table = source.annotations
    boxes = table.boxes[~table.is_crowd]
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    of_image = np.array([len(table.boxes[table.rows(i)]) for i in range(len(source))])
    ratios = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / (boxes[:, 2:] - boxes[:, :2]).min(axis=1).clip(1e-9)
    return {
        "images": len(source),
        "images without boxes": int((of_image == 0).sum()),
        "short side of the images, pixels": _range(source.sizes.min(axis=1)),
        "long side of the images, pixels": _range(source.sizes.max(axis=1)),
        "boxes": len(boxes),
        "crowds": int(table.is_crowd.sum()),
        "boxes per image": _range(of_image),
        "side of the boxes (square root of the area), pixels": _range(sides),
        "long side / short side of the boxes": _range(ratios, digits=1),
    }


def _range(values: np.ndarray, digits: int = 0) -> str:
    """The smallest, the median and the largest value, as text."""
    if not len(values):
        return "-"
    return " / ".join(f"{x:.{digits}f}" for x in np.percentile(values, [0, 50, 100]))


def class_table(sources: dict[str, Source], most: int = 20) -> Table:
    """A table of the number of boxes of each class, classes with the most boxes first."""
    names = next(iter(sources.values())).categories
    counts = np.zeros((len(names), len(sources)), int)
    for column, source in enumerate(sources.values()):
        of_label = np.bincount(source.annotations.labels, minlength=len(source.categories)).tolist()
        by_name = dict(zip(source.categories, of_label, strict=True))
        counts[:, column] = [by_name.get(name, 0) for name in names]
    order = np.argsort(-counts[:, 0], kind="stable")
    rows = [(names[i], *counts[i].tolist()) for i in order]
    left = f"and {len(rows) - most} more classes" if len(rows) > most else ""
    return Table("boxes of each class", ("class", *sources), rows[:most], left)


def level_table(shown: Sequence[TrainingImage], strides: Sequence[int]) -> Table:
    """A table of the boxes that each level learns from, in pixels of the network's input."""
    levels = np.concatenate([one.levels for one in shown])
    positives = np.concatenate([one.positives.sum(axis=1) for one in shown])
    boxes = np.concatenate([one.boxes for one in shown])
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    rows: list[tuple[Cell, ...]] = []
    for level, name in [*((i, str(stride)) for i, stride in enumerate(strides)), (-1, "none")]:
        of_level = levels == level
        each = float(positives[of_level].mean()) if of_level.any() else float("nan")
        rows.append((name, int(of_level.sum()), 100 * float(of_level.mean()), _range(sides[of_level]), each))
    return Table(
        f"boxes that each level learns from, in the first {len(shown)} samples of training",
        ("stride", "boxes", "%", "side of the boxes, pixels", "positives per box"),
        rows,
        "each box counts for the level with most of its positives; none: no location learns from the box",
    )


def describe_unassigned(shown: Sequence[TrainingImage], source: Source, most: int = 5) -> list[str]:
    """One line for each of the first samples with boxes that no location learns from, and their number."""
    lines: list[str] = []
    for one in shown:
        count = int((one.levels == -1).sum())
        if count:
            side = np.sqrt(np.prod(one.boxes[:, 2:] - one.boxes[:, :2], axis=1))[one.levels == -1]
            lines.append(
                f"{source.file_names[one.position]}: in this sample no location learns from {count} of "
                f"{len(one.boxes)} boxes; their sides: {_range(side)} pixels (smallest / median / largest)"
            )
    more = f"and {len(lines) - most} more samples with such boxes"
    return lines[:most] + [more] * (len(lines) > most)


def draw_samples(
    shown: Sequence[TrainingImage], strides: Sequence[int], columns: int = 4, side: int = 480
) -> Image:
    """Draws a sheet of images as the network sees them, with boxes in the colors of their levels."""
    tiles = []
    for one in shown:
        factor = max(1, side // max(one.image.shape[:2]))
        tile = enlarged(one.image, factor)
        boxes = one.boxes.astype(np.float64) * factor
        colors = [UNASSIGNED_COLOR if level < 0 else class_color(level) for level in one.levels.tolist()]
        paint_boxes(tile, boxes, colors, style_of(tile, boxes))
        tiles.append(tile)
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + 8), columns * (width + 8), 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + 8), i % columns * (width + 8)
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    legend = [(class_color(level), f"stride {stride}") for level, stride in enumerate(strides)]
    top = header(sheet, "level that learns from a box", [*legend, (UNASSIGNED_COLOR, "no location")])
    return np.concatenate([top, sheet])
