"""Published weights by name: each fits its config, and commands load them from a filled cache."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_run import small_experiment

from gfl_jax.command_line import setup
from gfl_jax.command_line.main import main
from gfl_jax.configuration.config_files import CONFIGS, load_config
from gfl_jax.data.categories import Categories
from gfl_jax.interop.foreign import detector_shapes
from gfl_jax.interop.foreign_names import mmdetection_name
from gfl_jax.interop.torch_files import write_torch_file
from gfl_jax.interop.torch_names import match_entries, whole_state_dict
from gfl_jax.pretrained.published import DETECTORS, PUBLISHED
from gfl_jax.training.start import start_from_file
from gfl_jax.training.state import TrainState
from gfl_jax.training.trained import load_published

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
STRUCTURES = {  # files with the names and shapes of entries in mmdetection
    "gfl_r50_fpn_1x_coco": "gfl",
    "gfl_r50_fpn_ms2x_coco": "gfl",
    "gfl_r101_dcn_c3-c5_fpn_ms2x_coco": "gfl_r101_dcn",
    "gfl_x101_32x4d_dcn_c4-c5_fpn_ms2x_coco": "gfl_x101_dcn",
    "atss_r50_fpn_1x_coco": "atss",
    "fcos_r50_fpn_1x_coco": "fcos",
    "fcos_r50_fpn_tricks_1x_coco": "fcos_tricks",
}


@pytest.mark.parametrize("name", DETECTORS)
def test_each_detector_has_a_config_that_names_its_ap_and_fits_every_entry(name):
    detector = load_config(name).detector
    shapes = detector_shapes(detector)
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(shapes["params"]))
    assert DETECTORS[name].million == pytest.approx(count / 1e6, abs=0.05)
    text = (CONFIGS / f"{name}.py").read_text()
    assert f"{DETECTORS[name].average_precision} AP" in text
    if name in STRUCTURES:
        entries = json.loads((REFERENCE / f"{STRUCTURES[name]}_structure.json").read_text())["shapes"]
        named = {mmdetection_name(key): shape for key, shape in entries.items()}
        state_dict = {key: np.broadcast_to(np.float32(1), shape) for key, shape in named.items()}
    else:
        arrays = jax.tree.map(lambda x: np.broadcast_to(np.float32(1), x.shape), shapes)
        state_dict = {key: np.asarray(x) for key, x in whole_state_dict(arrays, detector).items()}
    matched = match_entries(state_dict, shapes, detector)
    assert matched.differences == []
    assert len(matched.arrays) == len(jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_address_ends_with_the_first_digits_of_a_sha256(name):
    url = PUBLISHED[name].url
    if "/" in url and not url.startswith("https://huggingface.co/"):
        assert url.startswith("https://")
        assert re.fullmatch("[0-9a-f]{8}", PUBLISHED[name].sha256)


def test_names_of_cached_files():
    files = [published.file for published in PUBLISHED.values()]
    assert len({file.name for file in files}) == len(files)
    assert PUBLISHED["timm/resnet50.tv_in1k"].file.name == "timm_resnet50.tv_in1k.safetensors"
    assert DETECTORS["gfl_trees"].file.is_file()


def test_the_table_of_models(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GFL_JAX_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / PUBLISHED["resnet50"].url.rpartition("/")[2]).touch()
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in PUBLISHED:
        (line,) = [line for line in lines if f"│ {name} " in line]
        assert ("yes" in line) == (name in ("resnet50", "gfl_trees"))


@pytest.fixture
def small_model(small_detector, tmp_path, monkeypatch):
    """A cache that contains a small detector under a published name, so no network is needed."""
    monkeypatch.setenv("GFL_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    rng = np.random.default_rng(0)
    draw = lambda x: np.abs(rng.normal(size=x.shape)).astype(np.float32)  # noqa: E731
    state_dict = whole_state_dict(jax.tree.map(draw, detector_shapes(small_detector)), small_detector)
    name = "gfl_r50_fpn_1x_coco"
    file = tmp_path / "cache" / "weights" / DETECTORS[name].url.rpartition("/")[2]
    file.write_bytes(write_torch_file({key: np.asarray(x) for key, x in state_dict.items()}))
    return name


def test_training_from_published_weights_matches_classes_by_name():
    """The file contains no class names, but the classes of published detectors are known."""
    published = load_published("gfl_trees", load_config("gfl_trees"))
    detector = dataclasses.replace(published.config.detector, num_classes=2)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), detector_shapes(detector))
    state = TrainState(step=jnp.zeros((), jnp.int32), opt_state=(), **zeros)
    started = start_from_file(state, "gfl_trees", detector, Categories(("bush", "Tree"), (1, 2)))
    kernel = np.asarray(started.params["head"]["class_logits"]["kernel"])
    np.testing.assert_array_equal(
        kernel[..., 1:], published.variables["params"]["head"]["class_logits"]["kernel"]
    )
    assert (kernel[..., 0] == 0).all()


def test_predict_by_name(small_model, small_detector, tmp_path, monkeypatch, capsys):
    experiment = small_experiment(small_detector)
    monkeypatch.setattr(setup, "load_config", lambda name: experiment)
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", f"--model={small_model}", "a.png"]) == 0
    found = json.loads((tmp_path / "runs" / small_model / "predict" / "results.json").read_text())
    assert {entry["category_id"] for entry in found} <= {1, 2, 3}  # the first three of COCO
    assert (tmp_path / "runs" / small_model / "predict" / "a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=resnet50"], "--model=resnet50: is only a backbone, for --config.init_from"),
        (["--model=yolo"], "--model=yolo: is not a model; `main.py models` lists the detectors"),
        (["--model=gfl_r50_fpn_1x_coco", "--checkpoint=a"], "--checkpoint=a: works only with --workdir"),
    ],
)
def test_names_that_are_not_detectors_are_errors(arguments, message, small_model, capsys):
    assert main(["predict", *arguments, "a.png"]) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_a_config_that_does_not_fit_the_weights_is_an_error(small_model, tmp_path, capsys):
    assert main(["predict", f"--model={small_model}", "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "entries do not fit config gfl_r50_fpn_1x_coco" in line
