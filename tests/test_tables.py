"""Every row of the tables of the paper learns and detects, small, on a real photograph of trees.

Bar: a finite loss that falls within 20 steps of descent on one batch, and metrics between 0 and 1.
"""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.config_files import load_config, load_module
from gfl_jax.data.loader import make_source, train_batches
from gfl_jax.evaluation.evaluate import evaluate_source
from gfl_jax.inference.detect import make_detect
from gfl_jax.mesh import make_mesh, put_batch, put_everywhere
from gfl_jax.models.detector import build_detector
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import TrainState
from gfl_jax.training.step import make_train_step

ROOT = Path(__file__).resolve().parents[1]
TREES = ROOT / "tests" / "data" / "trees"
FILES = {name: ROOT / "configs" / f"table_{name}.py" for name in ("1", "boxes", "beta", "dfl", "qfl")}
ROWS = [(name, row) for name, file in FILES.items() for row in load_module(file).ROWS]
STEPS = 20
QUICKLY = {"xla_backend_optimization_level": 0}  # nearly all the time is compilation
LEVELS=int(os.environ.get("LEVELS",2)); CONVS=int(os.environ.get("CONVS",0))


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
    """The same point of the grid with a tiny network, and anchors as small as the trees."""
    return dataclasses.replace(
        detector,
        strides=(8, 16)[:LEVELS],
        assigner=dataclasses.replace(detector.assigner, anchor_scale=2.0, range_bounds=(16,)[:LEVELS-1]),
        backbone=config.Backbone("basic", (1, 1), (8, 8), "patch4", frozen_stages=1),
        pyramid=config.Pyramid(channels=8, num_laterals=1, num_levels=LEVELS),
        head=config.Head(channels=8, num_convs=CONVS, num_groups=2),
    )


@functools.cache
def trained(detector):
    """The losses of each step on one batch, the metrics afterwards, and the detections."""
    import time
    t0=time.process_time()
    annotations, images = str(TREES / "trees.json"), str(TREES)
    experiment = config.Config(
        name="small",
        detector=detector,
        resize=config.Resize(short_side=None),
        dataset=config.Dataset("", "", "", annotations, images, annotations, images, repeats=2),
        loader=config.Loader(batch_size=2, eval_batch_size=1, buckets=((96, 128),), workers=0),
        optimizer=config.Optimizer("adamw", learning_rate=float(os.environ.get("LR","0.005")), reference_batch_size=None),
        inference=config.Inference(score_threshold=0.0, candidates_per_level=100, max_detections=50),
    )
    mesh = make_mesh(jax.devices()[:1])
    source, model = make_source(experiment, "train"), build_detector(detector)
    with train_batches(source, experiment) as batches:
        batch = put_batch(next(batches), mesh)

    def rate(step):
        return experiment.optimizer.learning_rate

    optimizer = make_optimizer(experiment.optimizer, rate, detector.backbone)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    params = variables["params"]
    state = TrainState(jnp.array(0), params, variables["batch_stats"], optimizer.init(params))
    state = put_everywhere(state, mesh)
    t1=time.process_time()
    step = make_train_step(model, optimizer, rate, experiment, mesh)
    low = step.lower(state, batch)
    t2=time.process_time()
    step = low.compile(compiler_options=QUICKLY)
    t3=time.process_time()
    history = []
    for _ in range(STEPS + 1):
        state, metrics = step(state, batch)
        history.append(metrics)
    jax.block_until_ready(state)
    t4=time.process_time()
    detect = make_detect(model, experiment.normalization, experiment.inference)
    metrics, results = evaluate_source(detect, state.variables, source, experiment, mesh)
    t5=time.process_time()
    print(f"setup {t1-t0:.2f} trace {t2-t1:.2f} compile {t3-t2:.2f} run {t4-t3:.2f} eval {t5-t4:.2f}")
    return jax.device_get(history), metrics, results


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}-{row.name}" for table, row in ROWS])
def test_every_row_learns_and_detects(table, row):
    arguments = ",".join(f"{name}={value}" for name, value in row.arguments.items())
    experiment = load_config(f"{FILES[table]}:{arguments},dataset=trees")
    history, metrics, results = trained(small(experiment.detector))
    assert all(np.isfinite(value) for numbers in history for value in numbers.values())
    print(row.name,{k:(float(f"{history[0][k]:.4g}"),float(f"{history[-1][k]:.4g}")) for k in history[0]}, metrics.AP, metrics.AP50, len(results))
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert len(results) == 50
    assert all(0 <= metrics.scalars()[name] <= 1 for name in ("AP", "AP50", "AP75"))
