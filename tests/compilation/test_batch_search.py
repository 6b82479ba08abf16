"""The search finds the largest batch, asks little, and never twice."""

import math

from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.compilation.batch_search import largest_fitting


@given(st.integers(0, 3000), st.integers(1, 2000))
def test_it_finds_the_largest_and_asks_little(limit, most):
    asked = []

    def fits(n):
        asked.append(n)
        return n <= limit

    assert largest_fitting(fits, most) == min(limit, most)
    assert len(set(asked)) == len(asked)
    assert all(1 <= n <= most for n in asked)
    assert len(asked) <= 2 * math.log2(min(limit, most) + 1) + 2


def test_doubling_then_bisection():
    asked = []

    def fits(n):
        asked.append(n)
        return n <= 11

    assert largest_fitting(fits) == 11
    assert asked == [1, 2, 4, 8, 16, 12, 10, 11]
