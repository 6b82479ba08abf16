"""The input pipeline on images like COCO's, with different numbers of worker processes."""

import contextlib
import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs import IMAGE_SIZE, write_data_set
from benchmarks.measure import Case, Row, Say, measure
from gfl_jax.config import Config
from gfl_jax.data.loader import Batches, train_batches

NUM_IMAGES = 64
TIMED_BATCHES = 6  # in each round


def input_rows(
    config: Config, batch_size: int, worker_counts: Sequence[int], repeats: int, say: Say
) -> list[Row]:
    """Times training batches from JPEG files. Each number of workers is compared with the first.

    All pipelines are open at once. A pipeline that is not read stops when its buffers are full, and thus
    takes no time from the others. Its buffered batches are read before its next round starts.
    """
    with contextlib.ExitStack() as stack:
        say("input: writing images")
        source = write_data_set(Path(stack.enter_context(tempfile.TemporaryDirectory())), NUM_IMAGES)
        cases: list[Case] = []
        for workers in worker_counts:
            loader = dataclasses.replace(config.loader, workers=workers, batch_size=batch_size)
            batches = train_batches(source, dataclasses.replace(config, loader=loader))
            stack.enter_context(batches)
            cases.append(
                Case(
                    part="input",
                    name=f"from JPEG, {_described(workers)}",
                    size=IMAGE_SIZE,
                    images=batch_size,
                    run=functools.partial(next, batches),
                    against=cases[0].name if cases else None,
                    prepare=functools.partial(_read, batches, 2 + 2 * workers),
                    calls=TIMED_BATCHES,
                    workers=max(workers, 1),
                )
            )
        return measure(cases, repeats, say)


def _read(batches: Batches, count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def _described(workers: int) -> str:
    return f"{workers} worker{'s' * (workers > 1)}" if workers else "no worker (a thread)"
