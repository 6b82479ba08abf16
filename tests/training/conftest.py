"""What is compiled in one of these tests is read back in the next, and in the processes they start."""

import os

import jax
import pytest
from tiny_training import CONFIG, change, write_dataset

from gfl_jax.training.loop import train


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """A compilation cache for the time of the session."""
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


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """Twelve steps on a data set of two shapes; evaluations after 6 and 12, checkpoints after 4, 8, 12."""
    return change(CONFIG, dataset=change(write_dataset(tmp_path_factory.mktemp("dataset")), repeats=4))


@pytest.fixture(scope="session")
def whole_run(tiny_config, tmp_path_factory):
    """The work directory of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole_run")
    train(tiny_config, workdir)
    return workdir
