"""An experiment that compiles in seconds."""

import dataclasses

import pytest

from gfl_jax import config
from gfl_jax.compilation.report import make_report
from gfl_jax.compilation.topology import find_target


@pytest.fixture(scope="session")
def one_level(small_detector):
    """A detector with one level and frozen norms: only its gradients have to be summed."""
    return dataclasses.replace(
        small_detector,
        strides=(8,),
        backbone=dataclasses.replace(
            small_detector.backbone, stage_sizes=(1, 1), widths=(4, 8), norm="frozen", frozen_stages=1
        ),
        pyramid=dataclasses.replace(small_detector.pyramid, num_laterals=1, num_levels=1),
    )


@pytest.fixture(scope="session")
def experiment(one_level):
    """Two buckets; for each of eight devices, one image in training and two in evaluation."""
    return config.Config(
        name="small",
        detector=one_level,
        loader=config.Loader(batch_size=8, eval_batch_size=16, buckets=((64, 64), (64, 96))),
    )


@pytest.fixture(scope="session")
def local():
    """The eight devices of the tests."""
    return find_target("local")


@pytest.fixture(scope="session")
def report(experiment, local):
    """The report about both programs of the experiment."""
    return make_report(experiment, local)
