"""Every row of the paper's tables learns and detects, with a tiny network on a real photograph of trees.

Nearly all the time is compilation. Therefore the network is tiny and compiler optimization is off.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.comparison import rows
from gfl_jax.comparison.rows import load_table, select_rows
from gfl_jax.configuration.config_files import load_config, load_module
from gfl_jax.data.loader import make_source, train_batches
from gfl_jax.errors import UserError
from gfl_jax.evaluation.coco_metrics import evaluate_coco
from gfl_jax.evaluation.results import to_coco_results
from gfl_jax.inference.detect import make_detect
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import make_mesh, put_batch, put_everywhere
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import TrainState, state_shapes
from gfl_jax.training.step import make_train_step

ROOT = Path(__file__).resolve().parents[1]
TREES = ROOT / "tests" / "data" / "trees"
# All but Table II, whose backbones are too large.
TABLES = {
    file.stem.removeprefix("table_"): file
    for file in sorted((ROOT / "configs").glob("table_*.py"))
    if file.stem != "table_2"
}
ROWS = [(name, row) for name, file in TABLES.items() for row in load_module(file).ROWS]
STEPS = 20
FIRST_SCORE = 0.1  # high enough for box losses weighted by the score to count from the start


def row_config(table, row, dataset):
    return rows.row_config(TABLES[table], row, dataset)


def small(detector):
    """The same kind of detector with a tiny network."""
    return dataclasses.replace(
        detector,
        strides=(4, 8),
        assigner=dataclasses.replace(
            detector.assigner, range_bounds=(24,), size_ranges=detector.assigner.size_ranges[:2]
        ),
        backbone=config.Backbone("basic", (1,), (8,), "conv7", frozen_stages=0),
        pyramid=config.Pyramid(channels=8, num_laterals=1, num_levels=2),
        head=config.Head(channels=8, num_convs=0, num_groups=2),
    )


def first_state(model, optimizer):
    """The state before the first step, drawn by numpy. Compiling `create_state` would take longer."""
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
    """Trains on one batch. Returns the numbers of each step, and the metrics of the detections afterwards."""
    experiment = config.Config(
        name="small",
        detector=detector,
        resize=config.Resize(short_side=144, train_short_sides=(144, 144)),
        dataset=config.Dataset(train_json=str(TREES / "trees.json"), train_images=str(TREES)),
        loader=config.Loader(batch_size=1, buckets=((160, 192),), workers=0),
        optimizer=config.Optimizer("adamw", weight_decay=0.05),
        inference=config.Inference(score_threshold=0.0),
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    source, model = make_source(experiment, "train"), build_detector(detector)
    with train_batches(source, experiment) as batches:
        batch = put_batch(next(batches), mesh)

    def learning_rate(step):
        return 0.01

    optimizer = make_optimizer(experiment.optimizer, learning_rate, detector.backbone)
    state = put_everywhere(first_state(model, optimizer), mesh)
    step = make_train_step(model, optimizer, learning_rate, experiment, mesh)
    history = []
    for _ in range(STEPS + 1):  # the last one gives the loss after 20 steps
        state, numbers = step(state, batch)
        history.append(jax.device_get(numbers))

    detect = make_detect(model, experiment.normalization, experiment.inference)
    found = jax.device_get(detect(state.variables, batch))
    (mask,), (boxes,), (scores,), (labels,) = found.mask, found.boxes, found.scores, found.labels
    results = to_coco_results(
        boxes[mask], scores[mask], labels[mask], source.image_ids[0], source.category_ids
    )
    return history, evaluate_coco(experiment.dataset.train_json, results)


# Where the rows of a table differ only in one number, rows between the smallest and the largest are left out.
NUMBERS_BETWEEN = ("1", "2", "2.5", "14_1", "16_1", "8_2")
TRAINED = [
    (table, row) for table, row in ROWS if table not in ("beta", "dfl") or row.name not in NUMBERS_BETWEEN
]


@pytest.mark.parametrize(("table", "row"), TRAINED, ids=[f"{table}-{row.name}" for table, row in TRAINED])
def test_every_row_learns_and_detects(table, row):
    """The total loss and the box loss decrease. The detections are evaluated."""
    history, metrics = trained(small(row_config(table, row, "trees").detector))
    assert all(np.isfinite(value) for numbers in history for value in numbers.values())
    for name in ("loss", "loss_bbox"):
        assert history[-1][name] < 0.9 * history[0][name]
    assert 0 <= metrics.AP <= metrics.AP50 <= 1


def test_the_rows_are_those_of_the_paper():
    detectors = {name: [row_config(table, row, "trees").detector for table, row in ROWS if table == name]
                 for name in TABLES}  # fmt: skip
    assert len(set(detectors["1"])) == 10
    assert {d.box.kind for d in detectors["boxes"]} == {"dirac", "gaussian", "general"}
    assert [d.box.dfl_weight > 0 for d in detectors["boxes"] if d.box.kind == "general"] == [False, True]
    assert {d.classification.beta for d in detectors["beta"]} == {0, 1, 2, 2.5, 4}
    assert {d.box.reg_max for d in detectors["dfl"] if d.box.spacing == 1} == {12, 14, 16, 18}
    assert {d.box.spacing for d in detectors["dfl"]} == {0.5, 1, 2, 4}
    assert {d.quality for d in detectors["quality"]} == {"joint", "distribution"}
    assert {d.classification.kind for d in detectors["quality"]} == {"quality_focal", "varifocal"}
    assert {d.assigner.kind for d in detectors["qfl"]} == {"max_iou", "fovea", "fcos", "atss"}


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("table_*.py")), ids=lambda file: file.stem)
def test_the_rows_of_a_table_have_unique_names(file):
    names = [row.name for row in load_module(file).ROWS]
    assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("dataset", ["coco", "trees", "digits"])
def test_configs_have_unique_names(dataset):
    names = [row_config(table, row, dataset).name for table, row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ("assigner=atss,quality=centerness", "atss_r50_fpn_1x_coco"),
        ("assigner=fcos,quality=centerness", "fcos_r50_fpn_tricks_1x_coco"),
    ],
)
def test_on_coco_the_rows_with_centerness_equal_the_reference_configs(row, reference):
    found = load_config(f"{TABLES['1']}:{row}")
    assert dataclasses.replace(found, name=reference) == load_config(ROOT / "configs" / f"{reference}.py")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("assigner=yolo", "assigner='yolo': must be one of 'fcos', 'atss'"),
        ("assigner=atss,quality=1", "quality=1: must be one of 'joint', 'centerness', 'iou', 'none'"),
        ("dataset=none", "dataset=None: must be one of 'coco', 'trees', 'digits'"),
        (
            "foo=1",
            "foo=1: there is no such argument; write NAME=VALUE,NAME=VALUE with these names: assigner, ",
        ),
        ("assigner", "assigner: there is no such argument; write NAME=VALUE"),
        ("=atss", "=atss: there is no such argument"),
    ],
)
def test_wrong_arguments_are_named_with_the_known_ones(arguments, complaint):
    with pytest.raises(UserError) as caught:
        load_config(f"{TABLES['1']}:{arguments}")
    assert str(caught.value).startswith(f"--config={TABLES['1']}:{complaint}")
    assert "\n" not in str(caught.value)


def test_a_config_without_arguments_refuses_arguments():
    with pytest.raises(UserError, match=r"there is no such argument; .* with these names: none$"):
        load_config(f"{ROOT}/configs/gfl_r50_fpn_1x_coco.py:dataset=trees")


def test_tables_and_rows_are_found_by_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    file, module = load_table("1")
    assert file.resolve() == TABLES["1"]
    assert [row.name for row in select_rows(module.ROWS, "atss_joint,fcos_iou")] == ["atss_joint", "fcos_iou"]
    assert select_rows(module.ROWS, None) == module.ROWS
    with pytest.raises(
        UserError, match=r"^--rows=atss_joint,atss: there is no row atss; the rows are: fcos_"
    ):
        select_rows(module.ROWS, "atss_joint,atss")
    with pytest.raises(UserError, match=r"^--table=iii: there is no configs/table_iii.py; .*: 1, 2, beta,"):
        load_table("iii")


def test_tables_are_found_from_any_folder_the_users_own_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_table("1")[0].is_absolute()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "table_1.py").write_text("TITLE = 'mine'")
    assert load_table("1")[1].TITLE == "mine"
