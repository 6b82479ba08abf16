"""The largest batch that fits: a search that asks as little as it can, since each answer is a compilation."""

from collections.abc import Callable

MOST = 1024  # images on a chip; nobody wants more


def largest_fitting(fits: Callable[[int], bool], start: int = 1, most: int = MOST) -> int:
    """The largest n from 1 to `most` that fits, by doubling and then bisection; 0 if not even 1 does.

    Args:
      fits: whether n does. What is larger than something that does not fit must not fit either.
      start: what is tried first, at most `most`.
      most: the largest n that is tried.
    """
    good, bad = 0, most + 1
    while bad - good > 1:
        n = (good + bad) // 2 if bad <= most else min(2 * good or start, most)
        if fits(n):
            good = n
        else:
            bad = n
    return good
