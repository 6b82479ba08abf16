"""A work directory as `train` leaves it, without the training."""

from pathlib import Path

import pytest

from gfl_jax import config
from gfl_jax.data.categories import Categories, write_categories
from gfl_jax.models.network import build_detector
from gfl_jax.training.checkpoint import Checkpoints, claim_workdir
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import create_state


def small_experiment(small_detector: config.Detector) -> config.Config:
    """A config of the small detector that keeps every box, whatever its score."""
    return config.Config(
        name="small",
        detector=small_detector,
        resize=config.Resize(short_side=None),
        loader=config.Loader(buckets=((64, 96),)),
        inference=config.Inference(score_threshold=0.0),
    )


@pytest.fixture(scope="session")
def trained(small_detector, tmp_path_factory) -> Path:
    """A work directory with a checkpoint of an untrained detector. Its config keeps every box."""
    workdir = tmp_path_factory.mktemp("runs") / "small"
    experiment = small_experiment(small_detector)
    model = build_detector(small_detector)
    state = create_state(model, make_optimizer(experiment.optimizer, lambda step: 0.1), seed=0)
    claim_workdir(workdir, experiment)
    write_categories(workdir, Categories(("red", "green", "blue"), (10, 20, 30)))
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(state)
    checkpoints.close()
    return workdir
