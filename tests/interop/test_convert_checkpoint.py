"""The script convert_checkpoint.py on small detectors, without PyTorch."""

import dataclasses
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.command_line.main import main
from gfl_jax.configuration.config_files import config_from_json
from gfl_jax.data.categories import read_categories
from gfl_jax.interop.foreign import detector_shapes
from gfl_jax.interop.state_dicts import read_state_dict, write_state_dict
from gfl_jax.interop.torch_names import whole_state_dict
from gfl_jax.training.checkpoint import load_variables
from gfl_jax.training.start import start_from_file
from gfl_jax.training.state import TrainState

CONFIG = """
from gfl_jax import config

def get_config():
    return config.Config(name="small", detector={detector})
"""


@pytest.fixture(scope="module")
def detector(small_detector):
    """A detector with a 7x7 stem and bottlenecks, like the large ones."""
    backbone = config.Backbone(stage_sizes=(1, 1, 1), widths=(4, 8, 8), deform_stages=(2,))
    return dataclasses.replace(small_detector, backbone=backbone)


@pytest.fixture(scope="module")
def variables(detector):
    rng = np.random.default_rng(0)
    shapes = detector_shapes(detector)
    return jax.tree.map(lambda x: np.abs(rng.standard_normal(x.shape, np.float32)), shapes)


@pytest.fixture
def files(tmp_path, detector, variables):
    """A folder with a config and a state dict that fits it."""
    text = repr(detector)
    for name in (
        "Detector",
        "Assigner",
        "ClassificationLoss",
        "BoxRepresentation",
        "Backbone",
        "Pyramid",
        "Head",
    ):
        text = text.replace(f"{name}(", f"config.{name}(")
    (tmp_path / "small.py").write_text(CONFIG.format(detector=text))
    write_state_dict(tmp_path / "theirs.safetensors", whole_state_dict(variables, detector))
    return tmp_path


def convert(script, files, *more, file="theirs.safetensors"):
    """Runs to-jax with the folder `run` as output, and returns the exit status."""
    command = ["to-jax", str(files / file), f"--config={files / 'small.py'}", f"--output={files / 'run'}"]
    return script.main([*command, *more])


def rows(printed):
    """The rows of the printed tables."""
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    return [tuple(cell.strip() for cell in line.strip("│").split("│")) for line in lines]


def test_converting_there_and_back_is_bit_identical(script, files, variables, detector, capsys):
    assert convert(script, files) == 0
    table = rows(capsys.readouterr().out)
    assert table[0] == ("used", str(len(jax.tree.leaves(variables))), "")
    assert [(name, count) for name, count, _ in table[1:]] == [
        ("not learned", "14"),
        ("not in the detector", "0"),
        ("not in the file", "0"),
        ("wrong shape", "0"),
    ]
    jax.tree.map(np.testing.assert_array_equal, load_variables(files / "run"), variables)
    assert config_from_json(files / "run" / "config.json").detector == detector
    assert read_categories(files / "run").names == ("class 1", "class 2", "class 3")
    assert script.main(["to-torch", f"--workdir={files / 'run'}", f"--output={files / 'x.safetensors'}"]) == 0
    assert (files / "x.safetensors").read_bytes() == (files / "theirs.safetensors").read_bytes()


def test_classes_have_the_given_names(script, files, capsys):
    assert convert(script, files, "--classes=cat,dog") == 2
    assert "--classes=cat,dog: must be 3 different names, separated by commas" in capsys.readouterr().err
    assert not (files / "run").exists()
    assert convert(script, files, "--classes=cat,dog,traffic light") == 0
    assert read_categories(files / "run").names == ("cat", "dog", "traffic light")


def test_a_checkpoint_of_another_architecture_is_refused_with_a_table(script, files, capsys):
    assert (
        convert(script, files, "--config.detector.num_classes=5", "--config.detector.head.num_convs=2") == 2
    )
    printed = capsys.readouterr()
    assert ("bbox_head.gfl_cls.weight", "3 x 8 x 3 x 3", "5 x 8 x 3 x 3") in rows(printed.out)
    assert ("bbox_head.cls_convs.1.gn.bias", "-", "8") in rows(printed.out)
    assert printed.err == (
        f"error: {files}/theirs.safetensors: 8 entries do not fit config small; "
        "give its --config, or --backbone for a backbone alone\n"
    )
    assert not (files / "run").exists()


def test_entries_that_are_not_in_the_detector_are_refused(script, files, capsys):
    state_dict = read_state_dict(files / "theirs.safetensors")
    write_state_dict(files / "v2.safetensors", state_dict | {"bbox_head.reg_conf.0.bias": np.zeros(64)})
    assert convert(script, files, file="v2.safetensors") == 2
    assert ("bbox_head.reg_conf.0.bias", "64", "-") in rows(capsys.readouterr().out)
    assert not (files / "run").exists()


def test_a_file_that_contains_only_a_backbone(script, files, variables, detector, capsys):
    state_dict = read_state_dict(files / "theirs.safetensors")
    bare = {n.removeprefix("backbone."): x for n, x in state_dict.items() if n.startswith("backbone.")}
    write_state_dict(files / "bare.safetensors", bare | {"fc.weight": np.zeros((10, 32))})
    assert convert(script, files, file="bare.safetensors") == 2
    assert convert(script, files, "--backbone", file="bare.safetensors") == 0
    assert ("not in the detector", "1", "fc.weight") in rows(capsys.readouterr().out)
    taken = load_variables(files / "run")
    assert list(taken["params"]) == list(taken["batch_stats"]) == ["backbone"]
    zeros = jax.tree.map(jnp.zeros_like, variables)
    state = TrainState(step=jnp.zeros((), jnp.int32), opt_state=(), **zeros)
    started = start_from_file(state, str(files / "run"), detector)
    jax.tree.map(np.testing.assert_array_equal, started.params["backbone"], variables["params"]["backbone"])
    jax.tree.map(np.testing.assert_array_equal, started.params["head"], zeros["params"]["head"])
    jax.tree.map(np.testing.assert_array_equal, taken["params"]["backbone"], variables["params"]["backbone"])
    del bare["layer3.0.conv3.weight"]
    write_state_dict(files / "bare.safetensors", bare)
    assert convert(script, files, "--backbone", f"--output={files / 'other'}", file="bare.safetensors") == 2
    assert not (files / "other").exists()


def test_predict_reads_the_written_work_directory(script, files, capsys):
    assert convert(script, files) == 0
    cv2.imwrite(str(files / "x.png"), np.full((64, 64, 3), 99, np.uint8))
    fields = ["--config.resize.short_side=None", "--config.loader.buckets=((64, 64),)"]
    fields += ["--config.inference.score_threshold=0.0"]
    assert main(["predict", f"--workdir={files / 'run'}", str(files / "x.png"), *fields]) == 0
    results = json.loads((files / "run" / "predict" / "results.json").read_text())
    assert results
    assert {result["category_id"] for result in results} <= {1, 2, 3}


def test_two_entries_with_the_same_meaning_are_refused(script, files, capsys):
    state_dict = read_state_dict(files / "theirs.safetensors")
    write_state_dict(files / "x.safetensors", state_dict | {"conv1.weight": np.zeros((4, 3, 7, 7))})
    assert convert(script, files, file="x.safetensors") == 2
    assert "two of its entries mean backbone.conv1.weight" in capsys.readouterr().err


def test_existing_checkpoints_are_not_overwritten(script, files, capsys):
    assert convert(script, files) == 0
    before = sorted(path for path in (files / "run").rglob("*"))
    assert convert(script, files) == 2
    assert "has checkpoints already; name another directory" in capsys.readouterr().err
    assert sorted(path for path in (files / "run").rglob("*")) == before


def test_to_torch_refuses_another_config(script, files, capsys):
    assert convert(script, files) == 0
    text = (files / "small.py").read_text()
    (files / "other.py").write_text(text.replace("num_classes=3", "num_classes=4"))
    command = ["to-torch", f"--workdir={files / 'run'}", f"--config={files / 'other.py'}"]
    assert script.main([*command, f"--output={files / 'x.safetensors'}"]) == 2
    assert (
        "2 arrays differ, the first is params/head/class_logits/bias (found (3,), expected (4,))"
        in capsys.readouterr().err
    )
    assert not (files / "x.safetensors").exists()
