"""Variables of the small detector."""

import numpy as np
import pytest

from gfl_jax.models.network import build_detector


@pytest.fixture(scope="session")
def variables(small_detector, random_variables):
    """Random variables that give scores from about 0.3 to 0.7."""
    drawn = random_variables(build_detector(small_detector), np.zeros((1, 64, 64, 3), np.float32))
    drawn["params"]["head"]["class_logits"]["kernel"] *= 0.1
    drawn["params"]["head"]["class_logits"]["kernel"][..., ::2] *= -1
    return drawn
