import re

import pytest

from gfl_jax.command_line.main import main
from gfl_jax.config import Config
from gfl_jax.configuration.experiment_check import check_experiment
from gfl_jax.configuration.overrides import override
from gfl_jax.errors import UserError
from gfl_jax.training.loop import train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resize.train_short_sides": (80, 40)},
            "resize.train_short_sides=(80, 40): must be in ascending order",
        ),
        ({"crops.size": 77}, "crops.size=77: must be a multiple of 32, the stride of the backbone"),
        ({"loader.buckets": ((800, 1333),)}, "loader.buckets=((800, 1333),): must be (height, width) in"),
        ({"crops.scale": (2, 0.5)}, "crops.scale=(2.0, 0.5): must be in ascending order"),
        ({"schedule.milestones": (0.9, 0.5)}, "schedule.milestones=(0.9, 0.5): must be in ascending order"),
        (
            {"detector.strides": (8, 16)},
            "detector.strides=(8, 16): must be one value for each of the 5 levels",
        ),
    ],
)
def test_fields_that_do_not_fit_are_errors_before_any_work(changes, message, tmp_path, capsys):
    config = override(Config(name="x"), changes)
    with pytest.raises(UserError, match=re.escape(f"config.{message}")):
        check_experiment(config)
    with pytest.raises(UserError, match=re.escape(f"config.{message}")):
        train(config, tmp_path / "run")
    (tmp_path / "c.py").write_text(
        "from gfl_jax.config import Config\ndef get_config():\n    return Config(name='x')\n"
    )
    overrides = [f"--config.{name}={value}" for name, value in changes.items()]
    assert main(["train", f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run", *overrides]) == 2
    assert f"error: config.{message}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_config_that_fits():
    check_experiment(Config(name="x"))
