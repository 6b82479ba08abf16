"""Enables optimization, unlike in other tests: a ResNet in float64 takes longer to run than to compile."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _optimized():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
