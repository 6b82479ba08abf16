"""Searches for the largest batch that fits, in few tries, because each try is a compilation."""

from collections.abc import Callable

MOST = 1024  # images per chip; larger batches are not tried


def largest_fitting(fits: Callable[[int], bool], start: int = 1, most: int = MOST) -> int:
    """Finds the largest n from 1 to `most` that fits, by doubling, then bisection; 0 if 1 does not fit.

    Args:
      fits: returns whether n fits. If n does not fit, no larger number may fit.
      start: the first n to try, at most `most`.
      most: the largest n to try.
    """
    good, bad = 0, most + 1
    while bad - good > 1:
        n = (good + bad) // 2 if bad <= most else min(2 * good or start, most)
        if fits(n):
            good = n
        else:
            bad = n
    return good
