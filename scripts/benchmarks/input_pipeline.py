"""The input pipeline on pictures like COCO's, with more and more worker processes."""

import contextlib
import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs import PICTURE_SIZE, write_data_set
from benchmarks.measure import Case, Row, Say, measure
from gfl_jax.config import Config
from gfl_jax.data.loader import Batches, train_batches

PICTURES = 64
TIMED_BATCHES = 6  # in each round


def input_rows(
    config: Config, batch_size: int, worker_counts: Sequence[int], repeats: int, say: Say
) -> list[Row]:
    """Training batches from JPEG files, each number of workers compared with the first.

    All pipelines are open at once. One that is not read stops when its buffers are full, so it
    takes no time from the others; what it has buffered is read before its next round starts.
    """
    with contextlib.ExitStack() as stack:
        say("input: writing pictures")
        source = write_data_set(Path(stack.enter_context(tempfile.TemporaryDirectory())), PICTURES)
        cases: list[Case] = []
        for workers in worker_counts:
            loader = dataclasses.replace(config.loader, workers=workers, batch_size=batch_size)
            batches = train_batches(source, dataclasses.replace(config, loader=loader))
            stack.enter_context(batches)
            cases.append(
                Case(
                    part="input",
                    name=f"from JPEG, {_described(workers)}",
                    size=PICTURE_SIZE,
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
