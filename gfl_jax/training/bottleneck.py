"""Whether training waits for its input, and what can be done about it."""

from collections.abc import Mapping

from gfl_jax.config import Loader
from gfl_jax.data.loader import worker_count

TOLERATED_SHARE = 0.2


def input_share(seconds: Mapping[str, float]) -> float:
    """The share of the training time, from 0 to 1, in which the device was idle for want of a batch.

    Args:
      seconds: of each part of the time, as `Stopwatch.lap` gives them. Checkpoints and evaluations
        are no training time.
    """
    return seconds["input"] / max(seconds["input"] + seconds["step"], 1e-9)


def input_warning(seconds: Mapping[str, float], steps: range, loader: Loader) -> str | None:
    """One line that names input as the bottleneck of these steps and says what to do; None if it is not."""
    share = input_share(seconds)
    if share <= TOLERATED_SHARE:
        return None
    training = seconds["input"] + seconds["step"]
    cache = (
        ""
        if loader.cache_images
        else ", set config.loader.cache_images=True if memory takes the decoded images once for each worker"
    )
    return (
        f"input is the bottleneck: from step {steps[0]} to {steps[-1]} the device was idle for "
        f"{seconds['input']:.3g} of {training:.3g} s ({share:.0%}), waiting for batches; "
        f"raise config.loader.workers (now {worker_count(loader)}) if there are idle cores{cache}, or bring "
        "the data to faster storage; `python scripts/benchmark.py --input` measures what the workers can do"
    )
