"""A detector that compiles in seconds, with batches and a data set for it."""

import dataclasses
import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from gfl_jax import config
from gfl_jax.paths import as_path
from gfl_jax.structures import Batch
from gfl_jax.training.checkpoint import read_item
from gfl_jax.training.log import TIME_COLUMNS
from gfl_jax.training.metrics_file import read_rows

DETECTOR = config.Detector(
    num_classes=3,
    strides=(8, 16),
    assigner=config.Assigner(anchor_scale=2.0),
    box=config.BoxRepresentation(reg_max=4),
    backbone=config.Backbone(
        block="basic",
        stage_sizes=(1, 1, 1),
        widths=(4, 4, 8),
        stem="patch4",
        norm="batch",
        frozen_stages=0,
    ),
    pyramid=config.Pyramid(channels=8, num_laterals=2, num_levels=2),
    head=config.Head(channels=8, num_convs=1, num_groups=2),
)

CONFIG = config.Config(
    name="tiny",
    detector=DETECTOR,
    loader=config.Loader(batch_size=8, workers=0, buckets=((64, 64), (64, 96))),
    optimizer=config.Optimizer(learning_rate=0.05, reference_batch_size=None),
    schedule=config.Schedule(steps=12, warmup_steps=3),
    resize=config.Resize(short_side=None),
    run=config.Run(log_every=1, checkpoint_every=4, evaluate_every=6),
)


def change(value, **changes):
    """`dataclasses.replace` under a shorter name."""
    return dataclasses.replace(value, **changes)


def make_batch(seed, size=(64, 64), batch_size=8, boxes=8):
    """Noise images with up to `boxes` random boxes each. An image may have no box."""
    rng = np.random.default_rng(seed)
    height, width = size
    corners = rng.uniform(0, [width - 20, height - 20], (batch_size, boxes, 2))
    sides = rng.uniform(8, 20, (batch_size, boxes, 2))
    return Batch(
        images=rng.integers(0, 255, (batch_size, height, width, 3)).astype(np.uint8),
        image_sizes=np.tile(np.array(size, np.int32), (batch_size, 1)),
        scale_factors=np.ones((batch_size, 2), np.float32),
        indices=np.arange(batch_size, dtype=np.int32),
        boxes=np.concatenate([corners, corners + sides], -1).astype(np.float32),
        labels=rng.integers(0, 3, (batch_size, boxes)).astype(np.int32),
        box_mask=rng.random((batch_size, boxes)) < 0.7,
    )


def write_dataset(folder, seed=0, count=12):
    """Writes PNGs of coloured rectangles on gray, and their COCO JSON. Returns their `Dataset`."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, count + 1):
        height, width = (64, 64) if i % 2 else (64, 96)
        image = np.full((height, width, 3), 90, np.uint8) + rng.integers(0, 20, (height, width, 1), np.uint8)
        for _ in range(2):
            x, y = rng.integers(0, [width - 30, height - 30])
            w, h = rng.integers(16, 30, 2)
            label = int(rng.integers(0, 3))
            image[y : y + h, x : x + w] = np.eye(3, dtype=np.uint8)[label] * 200
            box = [int(x), int(y), int(w), int(h)]
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": label + 1})
            annotations[-1] |= {"bbox": box, "area": int(w * h), "iscrowd": 0}
        name = f"image_{i}.png"
        cv2.imwrite(str(folder / name), image)
        images.append({"id": i, "file_name": name, "height": height, "width": width})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(["red", "green", "blue"])]
    data = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "annotations.json"
    file.write_text(json.dumps(data))
    paths = {
        f"{split}_{kind}": str(file if kind == "json" else folder)
        for split in ("train", "eval")
        for kind in ("json", "images")
    }
    return config.Dataset(**paths)


def make_plain_step(*_):
    """A replacement for `make_train_step` that compiles fast: adds 1 to parameters and 0.5 to averages."""

    def step(state, batch):
        params, ema = (
            jax.tree.map(lambda x, by=by: x + by, tree) for tree, by in ((state.params, 1), (state.ema, 0.5))
        )
        metrics = {"loss": jnp.float32(0), "learning_rate": jnp.float32(0), "finite": True}
        return change(state, step=state.step + 1, params=params, ema=ema), metrics

    return jax.jit(step, donate_argnums=0)


def read_metrics(workdir):
    """Reads the rows of metrics.jsonl without the time columns."""
    rows = read_rows(as_path(workdir) / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in rows]


def read_state(workdir, step):
    """Reads every array of a checkpoint."""
    folder = as_path(workdir) / "checkpoints" / str(step)
    return {item: read_item(folder, item) for item in ("variables", "training")}


def assert_same_run(found, expected, step):
    """Checks that two work directories hold bit-identical numbers."""
    assert read_metrics(found) == read_metrics(expected)
    a, b = read_state(found, step), read_state(expected, step)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
