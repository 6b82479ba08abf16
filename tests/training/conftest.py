"""Fixtures for these tests. Compiled programs are shared with later tests and the processes they start."""

import pytest
from tiny_training import CONFIG, change, write_dataset

from gfl_jax.training.loop import train


@pytest.fixture(scope="session", autouse=True)
def _compile_once(compilation_cache):
    """For all tests of this folder."""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """Twelve steps on a data set of two shapes. Evaluations after 6 and 12, checkpoints after 4, 8, 12."""
    return change(CONFIG, dataset=change(write_dataset(tmp_path_factory.mktemp("dataset")), repeats=4))


@pytest.fixture(scope="session")
def whole_run(tiny_config, tmp_path_factory):
    """The work directory of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole_run")
    train(tiny_config, workdir)
    return workdir
