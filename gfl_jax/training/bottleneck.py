"""Detects that training waits for its input, and says what to do about it."""

from collections.abc import Mapping

from gfl_jax.config import Loader
from gfl_jax.data.loader import worker_count

TOLERATED_SHARE = 0.2


def input_share(seconds: Mapping[str, float]) -> float:
    """Returns the share of the training time, from 0 to 1, in which the device was idle without a batch.

    Args:
      seconds: the seconds of each part, from `Stopwatch.lap`. Checkpoints and evaluations do not count
        as training time.
    """
    return seconds["input"] / max(seconds["input"] + seconds["step"], 1e-9)


def input_warning(seconds: Mapping[str, float], steps: range, loader: Loader) -> str | None:
    """Returns a one-line warning if input is the bottleneck of these steps, else None."""
    share = input_share(seconds)
    if share <= TOLERATED_SHARE:
        return None
    training = seconds["input"] + seconds["step"]
    cache = (
        ""
        if loader.cache_images
        else ", set config.loader.cache_images=True if memory can hold all decoded images for each worker"
    )
    return (
        f"input is the bottleneck: from step {steps[0]} to {steps[-1]} the device was idle for "
        f"{seconds['input']:.3g} of {training:.3g} s ({share:.0%}), waiting for batches; "
        f"raise config.loader.workers (now {worker_count(loader)}) if there are idle cores{cache}, or move "
        "the data to faster storage; `python scripts/benchmark.py --input` measures the speed of the workers"
    )
