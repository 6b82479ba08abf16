"""Which pictures are in which batch, and how each is shown: pure functions of sizes, config and epoch.

Every host computes the same plan and loads its own columns of each batch, so the order of
examples depends on the seed and the step alone, not on workers, hosts or devices.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from gfl_jax.config import Config
from gfl_jax.data.buckets import Shape, by_area, fits, group_by_bucket, outermost
from gfl_jax.data.transforms import resized_sizes
from gfl_jax.errors import UserError
from gfl_jax.inference.views import View, view_canvas, view_sizes

FILLER = -1


class PlannedBatch(NamedTuple):
    """One global batch before a picture is read."""

    canvas: Shape  # (height, width) of the padded pictures
    positions: Int[np.ndarray, "batch"]  # in the source; FILLER for a filler picture
    sizes: Int[np.ndarray, "batch 2"]  # (height, width) to resize to; of no use with crops
    flips: Bool[np.ndarray, "batch"]  # mirrored left to right


def steps_per_epoch(sizes: Int[np.ndarray, "images 2"], names: tuple[str, ...], config: Config) -> int:
    """The number of batches in every epoch.

    The sizes that multi-scale training draws make the number of incomplete batches vary by
    one or two; then it is the most there can be, and `train_plan` fills up to it.

    Raises:
      UserError: a picture fits in no bucket.
    """
    batch, count = config.loader.batch_size, len(sizes) * config.dataset.repeats
    if config.crops is not None:
        return -(-count // batch)
    low, high = _short_sides(config)
    shortest = resized_sizes(sizes, low, config.resize.long_side)
    if low == high:
        repeats = config.dataset.repeats
        return len(
            group_by_bucket(np.tile(shortest, (repeats, 1)), config.loader.buckets, batch, names * repeats)
        )
    kinds = fits(shortest, outermost(by_area(config.loader.buckets))).any(axis=0).sum()
    return int(count + max(kinds, 1) * (batch - 1)) // batch


def train_plan(
    sizes: Int[np.ndarray, "images 2"], names: tuple[str, ...], config: Config, epoch: int
) -> list[PlannedBatch]:
    """The batches of one epoch, in shuffled order.

    Each picture is shown at least `config.dataset.repeats` times; only those that complete
    a batch, at most one batch for each outermost bucket, are shown once more.

    Args:
      sizes: (height, width) of each picture of the source.
      names: of the pictures, for error messages.
      config: its seed, resize, crops, dataset.repeats and loader are used.
      epoch: from 0.

    Raises:
      UserError: a picture fits in no bucket.
    """
    rng = np.random.default_rng([config.seed, epoch])
    batch, steps = config.loader.batch_size, steps_per_epoch(sizes, names, config)
    positions = rng.permutation(len(sizes) * config.dataset.repeats) % len(sizes)
    if config.crops is not None:
        filled = np.concatenate([positions, rng.choice(positions, steps * batch - len(positions))])
        flips = (rng.random((steps, batch)) < 0.5) & config.loader.flip
        canvas = (config.crops.size, config.crops.size)
        return [
            PlannedBatch(canvas, part, sizes[part], flip)
            for part, flip in zip(filled.reshape(steps, batch), flips, strict=True)
        ]
    low, high = _short_sides(config)
    short_sides = None if low is None else rng.integers(low, high, len(positions), endpoint=True)
    shown = resized_sizes(sizes[positions], short_sides, config.resize.long_side)
    flips = (rng.random(len(positions)) < 0.5) & config.loader.flip
    groups = group_by_bucket(shown, config.loader.buckets, batch, [names[p] for p in positions])
    groups += [groups[-1]._replace(members=groups[-1].members[:0])] * (steps - len(groups))
    plan = []
    for bucket, members in groups:
        if len(members) < batch:
            others = np.flatnonzero(fits(shown, [bucket])[:, 0])
            members = np.concatenate([members, rng.choice(others, batch - len(members))])
        plan.append(PlannedBatch(bucket, positions[members], shown[members], flips[members]))
    return [plan[i] for i in rng.permutation(len(plan))]


def evaluation_plan(
    sizes: Int[np.ndarray, "images 2"], names: tuple[str, ...], config: Config
) -> list[PlannedBatch]:
    """Batches in which each picture is shown exactly once; incomplete ones end with fillers.

    Raises:
      UserError: a picture fits in no bucket.
    """
    batch = config.loader.eval_batch_size
    shown = resized_sizes(sizes, config.resize.short_side, config.resize.long_side)
    plan = []
    for bucket, members in group_by_bucket(shown, config.loader.buckets, batch, names):
        positions = np.full(batch, FILLER)
        positions[: len(members)] = members
        resized = np.ones((batch, 2), np.int32)
        resized[: len(members)] = shown[members]
        plan.append(PlannedBatch(bucket, positions, resized, np.zeros(batch, bool)))
    return plan


def in_view(planned: PlannedBatch, view: View) -> PlannedBatch:
    """The same pictures, shown in a view: at another scale, on a canvas of that scale, or mirrored."""
    return planned._replace(
        canvas=view_canvas(planned.canvas, view.scale),
        sizes=view_sizes(planned.sizes, view.scale),
        flips=planned.flips ^ view.flip,
    )


def _short_sides(config: Config) -> tuple[int, int] | tuple[None, None]:
    """The range that the short side is drawn from; None if pictures keep their size."""
    if config.resize.short_side is None:
        return None, None
    low, high = config.resize.train_short_sides
    if not 0 < low <= high:
        raise UserError(
            f"config.resize.train_short_sides={(low, high)}: must be two positive numbers, the smaller first"
        )
    return low, high
