"""Batches for training and evaluation, made by Grain worker processes.

Grain's unit of work is a step: one worker makes one whole batch. So the content of a batch cannot depend on
the number of workers.
"""

import atexit
import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsIndex

import cv2
import grain
import jax
import numpy as np
from absl import flags

from gfl_jax.config import Config, Loader
from gfl_jax.data import plan
from gfl_jax.data.assemble import assemble
from gfl_jax.data.categories import difference_of_classes
from gfl_jax.data.coco_file import read_coco
from gfl_jax.data.coco_json import coco_json_source
from gfl_jax.data.crops import max_boxes_of_crops
from gfl_jax.data.selection import held_out, holds_out, select_for_training
from gfl_jax.data.source import Example, Source
from gfl_jax.data.tfds_source import tfds_source
from gfl_jax.errors import UserError
from gfl_jax.inference.views import PLAIN, View
from gfl_jax.pixel_blocks import to_blocks
from gfl_jax.structures import Batch

_LOGGER = logging.getLogger(__name__)

# Enough for a host with TPUs, or with eight H100s at half of their peak. A worker uses 250 MB plus a batch.
_MAX_WORKERS = 16

# Larger arrays reach the main process through shared memory. The rest of a batch must fit in the buffer of a
# pipe (64 KiB); otherwise a worker may hang when it is closed.
_SHARED_BYTES = 4096


class Batches(Iterator[Batch]):
    """An iterator of batches; `close`, or the end of a `with` block, stops its workers."""

    def __init__(self, steps: "_Steps", workers: int) -> None:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags, but only an absl app parses them
            flags.FLAGS.mark_as_parsed()
        # A worker makes one batch at a time; without workers, a thread prefetches two batches.
        reading = grain.ReadOptions(*((0, 0) if workers else (1, 2)))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        shared = grain.experimental.DatasetOptions(min_shm_size=_SHARED_BYTES)
        data = grain.MapDataset.source(steps).to_iter_dataset(reading)
        data = grain.experimental.WithOptionsIterDataset(data, shared)
        self._batches: Any = iter(data.mp_prefetch(options, worker_init_fn=_start_worker))
        if workers:
            _wait_at_exit()

    def __next__(self) -> Batch:
        """Returns the next batch as numpy arrays.

        Raises:
          UserError: an image cannot be read, or a worker was killed.
        """
        if self._batches is None:
            raise StopIteration
        try:
            return Batch(**next(self._batches))
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                "a data worker was killed, perhaps because memory or /dev/shm was full; "
                "lower config.loader.workers, or set it to 0"
            ) from error

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers and ends the iteration."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def make_source(config: Config, split: Literal["train", "eval"]) -> Source:
    """Opens the data set that `config.dataset` names for training or evaluation.

    Raises:
      UserError: the config names no data set, or it is missing or broken. For training also: its number of
        categories differs from that of the detector, or it has no usable boxes.
    """
    data = config.dataset
    json_file, images = (
        (data.train_json, data.train_images) if split == "train" else (data.eval_json, data.eval_images)
    )
    tfds_split = data.train_split if split == "train" else data.eval_split
    if data.tfds_dir and tfds_split:
        source = tfds_source(data.tfds_dir, tfds_split, data.orientation)
        if split == "eval" and data.eval_json:
            source = _with_truth_of(source, data.eval_json)
    elif json_file and images and not data.tfds_dir:
        source = coco_json_source(json_file, images, data.orientation)
        if split == "train" and holds_out(data):
            source = source.take(np.flatnonzero(~held_out(source.file_names, data.holdout)))
    elif split == "eval" and holds_out(data):
        source = coco_json_source(data.train_json, data.train_images, data.orientation)
        source = source.take(np.flatnonzero(held_out(source.file_names, data.holdout)))
    else:
        raise UserError(
            f"config.dataset: names no data for {split}; set tfds_dir, or {split}_json and {split}_images"
        )
    return source if split == "eval" else select_for_training(source, data, config.detector.num_classes)


def has_eval_data(config: Config) -> bool:
    """Whether `config.dataset` names data for evaluation."""
    data = config.dataset
    return bool(data.eval_split if data.tfds_dir else data.eval_json or data.eval_images or holds_out(data))


def log_shapes(source: Source, config: Config, training: bool) -> None:
    """Logs the shapes of the batches of a source that the config does not set."""
    shapes = plan.describe_shapes(source.sizes, config, training)
    if shapes:
        _LOGGER.info("%s: %s", source.name, shapes)


def worker_count(loader: Loader) -> int:
    """The number of worker processes: `loader.workers`, or else one less than the usable cores (1 to 16)."""
    if loader.workers is not None:
        return loader.workers
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(usable - 1, 1), _MAX_WORKERS)


def train_batches(
    source: Source, config: Config, start_step: int = 0, process_index: int = 0, process_count: int = 1
) -> Batches:
    """Endless training batches from step `start_step` on; they depend only on the seed and the step.

    Args:
      source: the training data.
      config: its seed, crops, resize, dataset.repeats and loader are used.
      start_step: the step of the first batch; earlier batches are not read.
      process_index: index of this host, which gets its own columns of each global batch.
      process_count: number of hosts.

    Raises:
      UserError: the batch size is not a multiple of the number of hosts, or memory is too small for
        `loader.cache_images`.
    """
    if config.loader.cache_images:
        _require_memory(source, max(1, worker_count(config.loader)))
    columns = _columns("batch_size", config.loader.batch_size, process_index, process_count)
    most = source.max_boxes if config.crops is None else max_boxes_of_crops(source.annotations, config.crops)
    steps = _TrainSteps(source, config, columns, _round_up(most), start_step)
    steps.plan(start_step // steps.steps_per_epoch)  # raises errors here and not in a worker
    return Batches(steps, worker_count(config.loader))


def eval_batches(
    source: Source,
    config: Config,
    process_index: int = 0,
    process_count: int = 1,
    views: Sequence[View] = (PLAIN,),
    skip_unreadable: bool = False,
) -> Batches:
    """Evaluation batches that contain each image exactly once; fillers have `indices` -1 and size 1 x 1.

    Args:
      source: the evaluation data.
      config: its resize and loader are used; there are no crops.
      process_index: index of this host, which gets its own columns of each global batch.
      process_count: number of hosts; all get the same number of batches.
      views: the views of each image (scales and flips). The batches of one group of images, one for each
        view, are consecutive.
      skip_unreadable: whether unreadable images become fillers; otherwise they are errors.

    Raises:
      UserError: the batch size is not a multiple of the number of hosts.
    """
    columns = _columns("eval_batch_size", config.loader.eval_batch_size, process_index, process_count)
    groups = plan.evaluation_plan(source.sizes, config)
    batches = [plan.in_view(group, view) for group in groups for view in views]
    steps = _EvalSteps(
        source, batches, columns, _round_up(source.max_boxes), skip_unreadable, reads_blocks(config)
    )
    return Batches(steps, min(worker_count(config.loader), len(steps)))


class _Steps(Protocol):
    """Random access to batches by their number: the interface of a Grain data source."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: SupportsIndex) -> dict[str, np.ndarray]: ...


class _TrainSteps:
    """The batches from `start_step` on; the copy in each worker caches the plan of its current epoch."""

    def __init__(
        self, source: Source, config: Config, columns: range, max_boxes: int, start_step: int
    ) -> None:
        self.source, self.config, self.columns = source.for_workers(), config, columns
        self.max_boxes, self.start_step = max_boxes, start_step
        self.blocks = reads_blocks(config)
        self.steps_per_epoch = plan.steps_per_epoch(source.sizes, config)
        self._epoch, self._plan = -1, list[plan.PlannedBatch]()
        self._examples: dict[int, Example] = {}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: SupportsIndex) -> dict[str, np.ndarray]:
        step = self.start_step + i.__index__()
        epoch, number = divmod(step, self.steps_per_epoch)
        seed = (self.config.seed, step)
        planned = self.plan(epoch)[number]
        batch = assemble(planned, self.columns, self._example, self.max_boxes, self.config.crops, seed)
        return _in_blocks(batch) if self.blocks else batch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epoch": -1, "_plan": [], "_examples": {}}

    def plan(self, epoch: int) -> list[plan.PlannedBatch]:
        """The plan of an epoch; the latest plan is cached."""
        if epoch != self._epoch:
            self._plan = plan.train_plan(self.source.sizes, self.config, epoch)
            self._epoch = epoch
        return self._plan

    def _example(self, position: int) -> Example:
        if not self.config.loader.cache_images:
            return self.source.example(position)
        if position not in self._examples:
            self._examples[position] = self.source.example(position)
        return self._examples[position]


class _EvalSteps:
    """The batches of one evaluation."""

    def __init__(
        self,
        source: Source,
        batches: list[plan.PlannedBatch],
        columns: range,
        max_boxes: int,
        skip_unreadable: bool,
        blocks: bool,
    ) -> None:
        self.source, self.batches = source.for_workers(), batches
        self.columns, self.max_boxes = columns, max_boxes
        self.skip_unreadable, self.blocks = skip_unreadable, blocks

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: SupportsIndex) -> dict[str, np.ndarray]:
        planned, skip = self.batches[i], self.skip_unreadable
        batch = assemble(planned, self.columns, self.source.example, self.max_boxes, skip_unreadable=skip)
        return _in_blocks(batch) if self.blocks else batch


def reads_blocks(config: Config, platform: str | None = None) -> bool:
    """Whether batches hold images in blocks of 8x4 pixels: `loader.blocks`, or else only on TPUs.

    Args:
      config: its loader is used.
      platform: platform of the devices, such as "tpu"; None: that of this process.
    """
    if config.loader.blocks is not None:
        return config.loader.blocks
    return (platform or jax.default_backend()) == "tpu"


def _in_blocks(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**batch, "images": np.ascontiguousarray(to_blocks(batch["images"]))}


def _require_memory(source: Source, caches: int) -> None:
    """Checks that `caches` copies of all decoded images take at most three quarters of the memory."""
    once, memory = 3 * int(source.sizes.astype(np.int64).prod(axis=1).sum()), _memory()
    if caches * once > memory * 3 / 4:
        raise UserError(
            f"config.loader.cache_images=True: the {len(source)} decoded images of {source.name} take "
            f"{once / 1e9:.3g} GB, and {caches * once / 1e9:.3g} GB with a copy for each worker "
            f"({caches}); this exceeds three quarters of the {memory / 1e9:.3g} GB of this machine; set it "
            "to False, or lower config.loader.workers"
        )


def _memory() -> int:
    """Bytes of memory of this machine or container."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # the file does not exist, or contains "max"
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


def _columns(field: str, batch_size: int, process_index: int, process_count: int) -> range:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"config.loader.{field}={batch_size}: must be a positive multiple of the {process_count} hosts"
        )
    share = batch_size // process_count
    return range(process_index * share, (process_index + 1) * share)


def _round_up(boxes: int) -> int:
    """Rounds a number of box rows up to a multiple of 8, at least 8."""
    return max(8, -(-boxes // 8) * 8)


def _with_truth_of(source: Source, json_path: str) -> Source:
    """Gives a source the annotations and category ids of a COCO file with the same images and classes."""
    truth = read_coco(json_path)
    difference = difference_of_classes(source.categories, truth.categories.names)
    if difference:
        raise UserError(f"{truth.name}: {difference}, compared with {source.name}; name the matching file")
    known = set(truth.image_ids)
    missing = [id for id in source.image_ids if id not in known]
    if missing:
        raise UserError(
            f"{truth.name}: lacks {len(missing)} of the {len(source)} images of {source.name}, such as "
            f"the image with id {missing[0]!r}; name the matching file"
        )
    ids = dict(zip(*truth.categories, strict=True))
    return source.with_truth(truth, tuple(ids[name] for name in source.categories))


@functools.cache
def _wait_at_exit() -> None:
    """Waits a second once at exit, so that a Grain thread can free the shared memory of all readers."""
    atexit.register(time.sleep, 1.0)


def _start_worker(index: int, count: int) -> None:
    """Sets up a worker: one core, no signals, and an end when the parent process ends."""
    del index, count
    # Ctrl-C and Slurm signal the whole process group, but the parent needs more batches until it has stopped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the workers share the cores already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
