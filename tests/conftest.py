"""Settings for all tests: eight fake CPU devices, reproducible hypothesis runs, repository on the path."""

import importlib.metadata
import os
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# jax reads these variables at its first import, also in processes that tests start. If a flag is given twice,
# XLA uses the last one. Most programs here run once or twice, so most of their cost is compilation.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
_FLAGS = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions do not know the flag and abort
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(_FLAGS)
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from small_coco import coco_tree, prepared_coco  # noqa: E402, F401
from small_run import trained  # noqa: E402, F401

from gfl_jax import config  # noqa: E402

# No deadlines, because the first example compiles. The same examples each time, for a reproducible CI.
hypothesis.settings.register_profile("reproducible", deadline=None, derandomize=True)
hypothesis.settings.load_profile("reproducible")


# These tests take longest. They run first: otherwise a process might be left with one of them at the end.
LONGEST = (
    "test_kill_script",
    "test_verify",
    "test_several_processes",
    "test_other_detectors",
    "test_step",
    "test_tables",
    "test_run_data",
    "test_failures",
    "test_loop",
    "test_compare_killed",
    "test_documentation",
    "test_benchmark",
    "test_end_to_end",
    "test_gradient",
    "test_checkpoint",
    "test_distributed",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests by file, the longest files first."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of the reference figures."""
    return ROOT / "tests" / "data" / "reference"


@pytest.fixture(scope="session")
def small_detector() -> config.Detector:
    """A detector with all parts of a large one, but quick to compile: 3 classes, 3 levels."""
    return config.Detector(
        num_classes=3,
        strides=(8, 16, 32),
        assigner=config.Assigner(topk=4, anchor_scale=4.0),
        box=config.BoxRepresentation(reg_max=4),
        backbone=config.Backbone(
            block="basic",
            stage_sizes=(1, 1, 1),
            widths=(4, 8, 8),
            stem="patch4",
            norm="batch",
            frozen_stages=0,
        ),
        pyramid=config.Pyramid(channels=8, num_laterals=2, num_levels=3),
        head=config.Head(channels=8, num_convs=1, num_groups=2),
    )


@pytest.fixture(scope="session")
def random_variables():
    """A function (module, input) -> variables drawn by numpy. This is faster than compiling `init`."""

    def draw(module, x):
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), x)
        return jax.tree.map(lambda leaf: np.abs(rng.normal(size=leaf.shape)).astype(np.float32), shapes)

    return draw


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """Sets a compilation cache until the end of the session, also for the processes that tests start."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
        os.environ.pop(name.upper())
