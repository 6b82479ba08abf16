"""An exported detector is one file that runs with jax alone."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.command_line.main import main
from gfl_jax.configuration.config_files import config_from_json
from gfl_jax.data.categories import Categories, read_categories, write_categories
from gfl_jax.data.headers import try_headers
from gfl_jax.data.image_files import image_files_source
from gfl_jax.export import exportable, loader_code
from gfl_jax.models.network import build_detector
from gfl_jax.prediction.predict import make_predict
from gfl_jax.training.trained import load_run

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 60, 90
ALONE = """
import sys
sys.modules["gfl_jax"] = None  # gfl_jax cannot be imported, even if it is installed
{loader}
image = np.load("image.npy")
both = np.full((2, *exported.in_avals[0].shape[1:]), 255, np.uint8)
both[0, : image.shape[0], : image.shape[1]] = image
both[1, : image.shape[0], : image.shape[1]] = image[::-1]
batch = exported.call(both, np.array([image.shape[:2]] * 2, np.int32))
np.savez("found.npz", **detect(image))
np.savez("batch.npz", **batch)
"""


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder of an exported detector, with an image and the detections that its own loader gives."""
    folder = tmp_path_factory.mktemp("elsewhere")
    assert main(["export", f"--workdir={trained}", f"--output={folder / 'small.jaxexport'}"]) == 0
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    np.save(folder / "image.npy", image)
    cv2.imwrite(str(folder / "image.png"), image[..., ::-1])
    subprocess.run(
        [sys.executable, "-I", "-c", ALONE.format(loader=loader_code("small.jaxexport"))],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"},
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def predicted(exported, trained):
    experiment = config_from_json(trained / "config.json")
    path = exported / "image.png"
    source = image_files_source([path], [try_headers([path])[0].displayed], [1], read_categories(trained))
    return next(make_predict(load_run(trained, experiment))(source, {}))


def test_an_exported_detector_gives_the_detections_of_predict(exported, predicted):
    alone = np.load(exported / "found.npz")
    assert len(predicted.boxes) == len(alone["boxes"]) == 100
    np.testing.assert_allclose(alone["boxes"], predicted.boxes, rtol=1e-5, atol=1e-5 * WIDTH)
    np.testing.assert_allclose(alone["scores"], predicted.scores, rtol=1e-5)
    np.testing.assert_array_equal(alone["labels"], predicted.labels)


def test_any_batch_size_and_pixels_beyond_an_image_do_not_matter(exported, predicted):
    batch = np.load(exported / "batch.npz")
    assert {name: batch[name].shape for name in batch} == {
        "boxes": (2, 100, 4),
        "scores": (2, 100),
        "labels": (2, 100),
        "mask": (2, 100),
    }
    np.testing.assert_allclose(batch["boxes"][0], predicted.boxes, rtol=1e-5, atol=1e-5 * WIDTH)
    assert not np.allclose(batch["scores"][1], predicted.scores)


def test_one_file_for_several_platforms_with_a_description_beside_it(exported):
    file = jax.export.deserialize(bytearray((exported / "small.jaxexport").read_bytes()))
    assert file.platforms == ("cpu", "cuda", "tpu")
    about = json.loads((exported / "small.jaxexport.json").read_text())
    assert about["canvas"] == [64, 96]
    assert about["categories"] == ["red", "green", "blue"]
    assert about["category_ids"] == [10, 20, 30]
    assert about["resize"] == {"short_side": None, "long_side": 1333}


def test_canvas_batch_and_platforms_can_be_chosen(trained, tmp_path, capsys):
    output = tmp_path / "new" / "fixed.jaxexport"
    options = ["--height=32", "--width=64", "--batch=3", "--platforms", "cpu"]
    assert main(["export", f"--workdir={trained}", f"--output={output}", *options]) == 0
    assert loader_code(str(output)) in capsys.readouterr().out
    file = jax.export.deserialize(bytearray(output.read_bytes()))
    assert file.platforms == ("cpu",)
    assert [aval.shape for aval in file.in_avals] == [(3, 32, 64, 3), (3, 2)]
    assert json.loads(output.with_name("fixed.jaxexport.json").read_text())["batch"] == 3


def test_deformable_convolutions_are_exported_for_any_batch(small_detector):
    backbone = config.Backbone(
        stage_sizes=(1, 1, 1), widths=(64, 64, 64), group_width=4, deform_stages=(2,), deform_version=2
    )
    detector = dataclasses.replace(small_detector, backbone=backbone)
    variables = build_detector(detector).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    run = exportable(config.Config("deformable", detector=detector), variables)
    count = jax.export.symbolic_shape("batch")[0]
    images = jax.ShapeDtypeStruct((count, 64, 64, 3), np.uint8)
    sizes = jax.ShapeDtypeStruct((count, 2), np.int32)
    file = jax.export.export(jax.jit(run), platforms=("cpu", "tpu"))(images, sizes)
    assert str(file.out_avals[0].shape[0]) == "batch"


@pytest.fixture(scope="module")
def renamed(trained, tmp_path_factory):
    """A checkpoint of another run whose classes have other names and ids."""
    other = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(trained, other)
    write_categories(other, Categories(("cyan", "pink", "gray"), ("c", "p", "g")))
    return other / "checkpoints" / "0"


def test_the_classes_are_those_of_the_checkpoint_that_is_exported(trained, renamed, tmp_path):
    output = tmp_path / "other.jaxexport"
    options = ["--height=32", "--width=32", "--batch=1", "--platforms", "cpu", f"--checkpoint={renamed}"]
    assert main(["export", f"--workdir={trained}", f"--output={output}", *options]) == 0
    about = json.loads(output.with_name("other.jaxexport.json").read_text())
    assert (about["categories"], about["category_ids"]) == (["cyan", "pink", "gray"], ["c", "p", "g"])


def test_predict_names_the_classes_of_its_checkpoint(trained, renamed, exported, tmp_path):
    options = [f"--workdir={trained}", f"--checkpoint={renamed}", f"--output={tmp_path}"]
    assert main(["predict", str(exported / "image.png"), *options]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results
    assert {result["category_id"] for result in results} <= {"c", "p", "g"}


def test_the_loader_of_the_readme_is_the_one_that_is_printed():
    assert loader_code("gfl_trees.jaxexport") in (ROOT / "docs" / "export.md").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--height=100"], "--height=100: must be a positive multiple of 32, such as 800 or 1344"),
        (["--width=0"], "--width=0: must be a positive multiple of 32"),
        (["--height=-32"], "--height=-32: must be a positive multiple of 32"),
        (["--batch=0"], "--batch=0: must be at least 1; omit it for any number"),
        (["--platforms", "cpu", "gpu"], "--platforms gpu: there is no such platform; choose from cpu, cuda"),
        (["--checkpoint=nowhere"], "nowhere: has no checkpoint; name a work directory"),
    ],
)
def test_bad_input_is_a_one_line_error_and_nothing_is_written(trained, tmp_path, capsys, options, words):
    output = tmp_path / "out.jaxexport"
    assert main(["export", f"--workdir={trained}", f"--output={output}", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_the_output_is_an_error(trained, tmp_path, capsys):
    assert main(["export", f"--workdir={trained}", f"--output={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is a folder; name a file\n"
