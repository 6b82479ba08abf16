"""The installed package, in a folder of its own, without the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_coco import write_coco

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import json, sys
import numpy as np
import gfl_jax

assert gfl_jax.__file__.startswith(sys.argv[1]), gfl_jax.__file__
detector = gfl_jax.load("gfl_trees")
image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
found = detector(image)
of_file = detector("images/0.png")
both = detector([image, "images/0.png"])
assert [len(x.scores) for x in both] == [len(found.scores), len(of_file.scores)]
assert set(found.names) <= {"Tree"}
detector.draw("images/0.png", of_file, min_score=0.0).save("drawn.png")
detector.export("trees.jaxexport", canvas=(96, 128))
assert gfl_jax.load("trees.jaxexport")(image).boxes.shape[1] == 4

small = {"schedule.steps": 3, "loader.batch_size": 1, "crops.size": 64, "run.log_every": 1}
config = gfl_jax.override(gfl_jax.load_config("finetune:data=images,model=gfl_trees"), small)
metrics = gfl_jax.train(config, "run")
assert 0 <= metrics["AP50"] <= 1, metrics
assert gfl_jax.load("run").classes == ("bush",)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that contains only the installed wheel."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("gfl_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir=.", "."], cwd=source, check=True
    )
    (wheel,) = source.glob("gfl_jax-*.whl")
    subprocess.run([*pip, "install", "--no-deps", f"--target={site}", wheel], check=True)
    return site


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a small data set."""
    folder = tmp_path_factory.mktemp("elsewhere")
    names = [f"{i}.png" for i in range(4)]
    write_coco(folder / "images" / "_annotations.coco.json", folder / "images", names, categories=("bush",))
    return folder


def environment(site):
    known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return known | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}


def test_a_program_that_uses_only_the_package(site, folder):
    command = [sys.executable, "-P", "-c", PROGRAM, str(site)]
    subprocess.run(command, cwd=folder, env=environment(site), check=True)
    assert (folder / "drawn.png").is_file()


def test_the_command_gfl_jax(site, folder):
    command = [sys.executable, "-P", site / "bin" / "gfl-jax"]
    done = subprocess.run(
        [*command, "predict", "--model=gfl_trees", "images", "--output=found"],
        cwd=folder, env=environment(site), check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "images/0.png" in done.stdout
    assert len(list((folder / "found").glob("*.png"))) == 4
    helped = subprocess.run(
        [*command, "train", "--help"], env=environment(site), capture_output=True, text=True
    )
    assert "usage: gfl-jax train" in helped.stdout
    assert "main.py" not in helped.stdout


def test_the_wheel_contains_all_configs(site):
    names = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
    assert sorted(path.name for path in (site / "gfl_jax" / "configs").glob("*.py")) == names
