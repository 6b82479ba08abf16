"""The search finds the largest batch in few tries, and tries no batch twice."""

import math

from hypothesis import given
from hypothesis import strategies as st

from gfl_jax.compilation.batch_search import largest_fitting


@given(st.integers(0, 3000), st.integers(1, 2000), st.data())
def test_it_finds_the_largest_batch_in_few_tries(limit, most, data):
    start = data.draw(st.integers(1, most))
    tried = []

    def fits(n):
        tried.append(n)
        return n <= limit

    assert largest_fitting(fits, start, most) == min(limit, most)
    assert len(set(tried)) == len(tried)
    assert all(1 <= n <= most for n in tried)
    assert tried[0] == start
    assert len(tried) <= 2 * math.log2(max(min(limit, most), start) + 1) + 2


def test_doubling_then_bisection():
    tried = []

    def fits(n):
        tried.append(n)
        return n <= 11

    assert largest_fitting(fits) == 11
    assert tried == [1, 2, 4, 8, 16, 12, 10, 11]
    tried.clear()
    assert largest_fitting(fits, start=6) == 11
    assert tried == [6, 12, 9, 10, 11]
