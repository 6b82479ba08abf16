"""Every row of the tables of the paper learns and detects, small, on a part of a real photograph of trees.

Nearly all the time is compilation, so the network is tiny and the compiler is told to hurry.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.comparison.rows import load_table, select_rows
from gfl_jax.config_files import load_config, load_module
from gfl_jax.data.loader import make_source, train_batches
from gfl_jax.errors import UserError
from gfl_jax.evaluation.coco_metrics import evaluate_coco
from gfl_jax.evaluation.results import to_coco_results
from gfl_jax.inference.detect import make_detect
from gfl_jax.mesh import make_mesh, put_batch, put_everywhere
from gfl_jax.models.detector import build_detector
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import TrainState, state_shapes
from gfl_jax.training.step import make_train_step

ROOT = Path(__file__).resolve().parents[1]
TREES = ROOT / "tests" / "data" / "trees"
TABLES = {path.stem.removeprefix("table_"): path for path in sorted((ROOT / "configs").glob("table_*.py"))}
ROWS = [(name, row) for name, file in TABLES.items() for row in load_module(file).ROWS]
STEPS = 20
FIRST_SCORE = 0.1  # box losses that are weighted by the score then count in full from the start
QUICKLY = {"xla_backend_optimization_level": 0}


def row_config(table, row, dataset):
    arguments = {**row.arguments, "dataset": dataset}
    return load_config(f"{TABLES[table]}:" + ",".join(f"{name}={value}" for name, value in arguments.items()))


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    """Rows that differ in their losses alone detect with the same program."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def small(detector):
    """The same point of the grid with a tiny network."""
    return dataclasses.replace(
        detector,
        strides=(4, 8),
        assigner=dataclasses.replace(detector.assigner, range_bounds=(24,)),
        backbone=config.Backbone("basic", (1,), (8,), "patch4", frozen_stages=0),
        pyramid=config.Pyramid(channels=8, num_laterals=1, num_levels=2),
        head=config.Head(channels=8, num_convs=1, num_groups=2),
    )


def first_state(model, optimizer):
    """The state before the first step, drawn by numpy: compiling `create_state` would take longer."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        module, name = path[-2].key, path[-1].key
        if name == "kernel":
            last = module in ("class_logits", "box", "quality")
            deviation = 0.01 if last else np.prod(leaf.shape[:-1]) ** -0.5
            return rng.normal(0, deviation, leaf.shape).astype(np.float32)
        if name == "bias" and module == "class_logits":
            return np.full(leaf.shape, np.log(FIRST_SCORE / (1 - FIRST_SCORE)), np.float32)
        return np.full(leaf.shape, name not in ("bias", "mean"), np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, state_shapes(model, optimizer).variables)
    params = variables["params"]
    return TrainState(jnp.array(0), params, variables["batch_stats"], optimizer.init(params))


@functools.cache
def trained(detector):
    """The numbers of each step, all on one batch, and the metrics of the detections afterwards."""
    experiment = config.Config(
        name="small",
        detector=detector,
        resize=config.Resize(short_side=144, train_short_sides=(144, 144)),
        dataset=config.Dataset(train_json=str(TREES / "trees.json"), train_images=str(TREES)),
        loader=config.Loader(batch_size=1, buckets=((160, 192),), workers=0),
        optimizer=config.Optimizer("adamw", weight_decay=0.05),
        inference=config.Inference(score_threshold=0.0),
    )
    mesh = make_mesh(jax.devices()[:1])
    source, model = make_source(experiment, "train"), build_detector(detector)
    with train_batches(source, experiment) as batches:
        batch = put_batch(next(batches), mesh)

    def learning_rate(step):
        return 0.01

    optimizer = make_optimizer(experiment.optimizer, learning_rate, detector.backbone)
    state = put_everywhere(first_state(model, optimizer), mesh)
    step = make_train_step(model, optimizer, learning_rate, experiment, mesh)
    step = step.lower(state, batch).compile(compiler_options=QUICKLY)
    history = []
    for _ in range(STEPS + 1):  # the last one tells the loss after 20 steps
        state, numbers = step(state, batch)
        history.append(jax.device_get(numbers))

    detect = make_detect(model, experiment.normalization, experiment.inference)
    detect = detect.lower(state.variables, batch).compile(compiler_options=QUICKLY)
    found = jax.device_get(detect(state.variables, batch))
    (mask,), (boxes,), (scores,), (labels,) = found.mask, found.boxes, found.scores, found.labels
    results = to_coco_results(
        boxes[mask], scores[mask], labels[mask], source.image_ids[0], source.category_ids
    )
    return history, evaluate_coco(experiment.dataset.train_json, results)


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}-{row.name}" for table, row in ROWS])
def test_every_row_learns_and_detects(table, row):
    """The sum of the losses falls, and that of the boxes by itself; the detections are evaluated."""
    history, metrics = trained(small(row_config(table, row, "trees").detector))
    assert all(np.isfinite(value) for numbers in history for value in numbers.values())
    for name in ("loss", "loss_bbox"):
        print(row.name, history[0][name], history[-1][name], metrics.AP, metrics.AP50)
        assert history[-1][name] < 0.8 * history[0][name]
    assert 0 <= metrics.AP <= metrics.AP50 <= 1
