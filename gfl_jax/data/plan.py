"""Plans which images are in each batch and how they are resized and flipped.

A plan depends only on the image sizes, the config and the epoch. Every host computes the same plan and loads
its own columns of each batch. So the order of the images depends only on the seed and the step, not on
workers, hosts or devices.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from gfl_jax.config import Config
from gfl_jax.data.buckets import (
    Shape,
    by_area,
    choose_buckets,
    fits,
    group_by_bucket,
    outermost,
    padded_share,
    with_room_for,
)
from gfl_jax.data.transforms import resized_sizes
from gfl_jax.errors import UserError
from gfl_jax.inference.views import View, view_canvas, view_sizes
from gfl_jax.structures import SIZE_DIVISOR

FILLER = -1
_MAX_EPOCH = 10**7  # images in an epoch, because their order is kept in memory
_MAX_CHOSEN, _MAX_CHOSEN_MULTI_SCALE = 6, 10  # shapes if the config sets none; each needs a compilation


class PlannedBatch(NamedTuple):
    """The plan of one global batch."""

    canvas: Shape  # (height, width) of the padded images
    positions: Int[np.ndarray, "batch"]  # in the source; FILLER: no image
    sizes: Int[np.ndarray, "batch 2"]  # (height, width) to resize to; unused with crops
    flips: Bool[np.ndarray, "batch"]  # whether to mirror left to right


def training_buckets(sizes: Int[np.ndarray, "images 2"], config: Config) -> tuple[Shape, ...]:
    """The shapes of the training batches in all epochs; every image fits at every size that can be drawn."""
    low, high = config.resize.short_sides_in_training
    long_side, given = config.resize.long_side, config.loader.buckets
    if given is not None:
        return with_room_for(given, resized_sizes(sizes, high, long_side))
    if low is None or high is None or low == high:
        return choose_buckets(resized_sizes(sizes, high, long_side), _MAX_CHOSEN)
    drawn = [resized_sizes(sizes, side, long_side) for side in np.linspace(low, high, 5).round().astype(int)]
    return choose_buckets(np.concatenate(drawn), _MAX_CHOSEN_MULTI_SCALE)


def evaluation_buckets(sizes: Int[np.ndarray, "images 2"], config: Config) -> tuple[Shape, ...]:
    """The shapes of the evaluation batches."""
    shown = resized_sizes(sizes, config.resize.short_side, config.resize.long_side)
    if config.loader.buckets is None:
        return choose_buckets(shown, _MAX_CHOSEN)
    return with_room_for(config.loader.buckets, shown)


def named_buckets(config: Config, flags: str) -> tuple[Shape, ...]:
    """The shapes that follow from a config alone: its buckets, or the largest shape that its resize gives.

    Args:
      config: the experiment.
      flags: the command-line flags that set a shape, for the error message.

    Raises:
      UserError: no shape follows from the config.
    """
    if config.loader.buckets is not None:
        return config.loader.buckets
    short, long = config.resize.short_side, config.resize.long_side
    if short is None:
        raise UserError(
            "config.loader.buckets=None: no shape is known, because config.resize keeps the sizes of the "
            f"images; give {flags}"
        )
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (short, max(short, long)))
    return ((height, width),)


def describe_shapes(sizes: Int[np.ndarray, "images 2"], config: Config, training: bool) -> str:
    """Describes the batch shapes that the config does not set, and their padding; "" if it sets all shapes.

    Args:
      sizes: (height, width) of the images of a source.
      config: the experiment.
      training: True for the shapes of training, False for those of evaluation.
    """
    if training and config.crops is not None:
        return ""
    buckets = (training_buckets if training else evaluation_buckets)(sizes, config)
    given = config.loader.buckets
    side = config.resize.short_sides_in_training[1] if training else config.resize.short_side
    shown = resized_sizes(sizes, side, config.resize.long_side)
    new = [
        f"{height}x{width}"
        for height, width in by_area([bucket for bucket in buckets if bucket not in (given or ())])
    ]
    if given is None:
        return f"batches of {', '.join(new)} (height x width) with {padded_share(shown, buckets):.1%} padding"
    if new:
        count = (~fits(shown, given).any(axis=1)).sum()
        return f"{count} images fit in none of config.loader.buckets; they get {', '.join(new)}"
    return ""


def steps_per_epoch(sizes: Int[np.ndarray, "images 2"], config: Config) -> int:
    """The number of batches in an epoch, which is the same for all epochs.

    In multi-scale training the number of incomplete batches varies by one or two. Then the result is an upper
    bound, and `train_plan` adds batches to reach it.

    Raises:
      UserError: an epoch has too many images.
    """
    batch, count = config.loader.batch_size, len(sizes) * config.dataset.repeats
    if count > _MAX_EPOCH:
        raise UserError(
            f"config.dataset.repeats={config.dataset.repeats}: an epoch would have {count} images; set at "
            f"most {max(1, _MAX_EPOCH // len(sizes))}, and increase config.schedule.epochs"
        )
    if config.crops is not None:
        return -(-count // batch)
    low, high = config.resize.short_sides_in_training
    shortest = resized_sizes(sizes, low, config.resize.long_side)
    buckets = training_buckets(sizes, config)
    if low == high:
        return len(group_by_bucket(np.tile(shortest, (config.dataset.repeats, 1)), buckets, batch))
    kinds = fits(shortest, outermost(by_area(buckets))).any(axis=0).sum()
    return int(count + max(kinds, 1) * (batch - 1)) // batch


def train_plan(sizes: Int[np.ndarray, "images 2"], config: Config, epoch: int) -> list[PlannedBatch]:
    """Plans the batches of one epoch, in shuffled order.

    Each image occurs at least `config.dataset.repeats` times. Images that fill up incomplete batches occur
    more often; they add less than one batch for each outermost bucket.

    Args:
      sizes: (height, width) of each image of the source.
      config: its seed, resize, crops, dataset.repeats and loader are used.
      epoch: number of the epoch, from 0.
    """
    rng = np.random.default_rng([config.seed, epoch])
    batch, steps = config.loader.batch_size, steps_per_epoch(sizes, config)
    positions = rng.permutation(len(sizes) * config.dataset.repeats) % len(sizes)
    if config.crops is not None:
        filled = np.concatenate([positions, rng.choice(positions, steps * batch - len(positions))])
        flips = (rng.random((steps, batch)) < 0.5) & config.loader.flip
        canvas = (config.crops.size, config.crops.size)
        return [
            PlannedBatch(canvas, part, sizes[part], flip)
            for part, flip in zip(filled.reshape(steps, batch), flips, strict=True)
        ]
    low, high = config.resize.short_sides_in_training
    short_sides = None if low is None else rng.integers(low, high, len(positions), endpoint=True)
    shown = resized_sizes(sizes[positions], short_sides, config.resize.long_side)
    flips = (rng.random(len(positions)) < 0.5) & config.loader.flip
    groups = group_by_bucket(shown, training_buckets(sizes, config), batch)
    groups += [groups[-1]._replace(members=groups[-1].members[:0])] * (steps - len(groups))
    plan = []
    for bucket, members in groups:
        if len(members) < batch:
            others = np.flatnonzero(fits(shown, [bucket])[:, 0])
            members = np.concatenate([members, rng.choice(others, batch - len(members))])
        plan.append(PlannedBatch(bucket, positions[members], shown[members], flips[members]))
    return [plan[i] for i in rng.permutation(len(plan))]


def evaluation_plan(sizes: Int[np.ndarray, "images 2"], config: Config) -> list[PlannedBatch]:
    """Plans batches that contain each image exactly once; incomplete batches end with fillers."""
    batch = config.loader.eval_batch_size
    shown = resized_sizes(sizes, config.resize.short_side, config.resize.long_side)
    plan = []
    for bucket, members in group_by_bucket(shown, evaluation_buckets(sizes, config), batch):
        positions = np.full(batch, FILLER)
        positions[: len(members)] = members
        resized = np.ones((batch, 2), np.int32)
        resized[: len(members)] = shown[members]
        plan.append(PlannedBatch(bucket, positions, resized, np.zeros(batch, bool)))
    return plan


def in_view(planned: PlannedBatch, view: View) -> PlannedBatch:
    """Plans the same images in another view: scaled, on a canvas scaled likewise, or mirrored."""
    return planned._replace(
        canvas=view_canvas(planned.canvas, view.scale),
        sizes=view_sizes(planned.sizes, view.scale),
        flips=planned.flips ^ view.flip,
    )
