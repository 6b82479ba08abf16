import pytest

from gfl_jax.config import Loader
from gfl_jax.training.bottleneck import TOLERATED_SHARE, input_share, input_warning


def seconds(input, step):
    return {"input": input, "step": step, "checkpoint": 100.0, "evaluation": 1000.0}


def test_input_share_is_relative_to_the_training_time():
    assert input_share(seconds(1.0, 3.0)) == 0.25
    assert input_share(seconds(0.0, 3.0)) == 0.0
    assert input_share(seconds(0.0, 0.0)) == 0.0


@pytest.mark.parametrize("input", [0.0, TOLERATED_SHARE])
def test_a_short_wait_gives_no_warning(input):
    assert input_warning(seconds(input, 1.0 - input), range(1, 9), Loader()) is None


def test_the_warning_names_the_numbers_and_the_remedies():
    text = input_warning(seconds(12.34, 16.0), range(51, 101), Loader(workers=4))
    assert text.startswith(
        "input is the bottleneck: from step 51 to 100 the device was idle for 12.3 of 28.3 s (44%)"
    )
    assert "raise config.loader.workers (now 4)" in text
    assert "config.loader.cache_images=True" in text
    assert "faster storage" in text
    assert "scripts/benchmark.py --input" in text
    assert "\n" not in text
    assert "cache_images" not in input_warning(seconds(1, 1), range(1, 3), Loader(cache_images=True))
