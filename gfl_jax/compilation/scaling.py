"""How long a training step takes on many chips, predicted from one chip's work and published rates.

Three things bound a step: arithmetic, traffic with a chip's own memory, and the sum of all chips'
gradients. Each is a size divided by a rate. Nothing here is fitted or measured; what chips reach of
their published rates is not known before one has them.
"""

import math
from typing import NamedTuple

from gfl_jax.compilation.chips import Chip

# Work of the input pipeline for one picture of 640x480: seconds of one core (JPEG to uint8 on the canvas).
PICTURE_SECONDS = 3.8e-3
# COCO train2017: 118,287 pictures, 18 GB.
COCO_PICTURES = 118_287
PICTURE_BYTES = 18e9 / COCO_PICTURES


class Work(NamedTuple):
    """What one chip does in a step; `main.py compile` reports it."""

    pictures: float
    flops: float
    bytes_accessed: float
    reduced_bytes: float  # the size of what is summed over all chips


class StepTime(NamedTuple):
    """The terms of a step, in seconds."""

    compute: float
    memory: float
    network: float

    @property
    def best(self) -> float:
        """All three at the same time: no step is shorter, if the sizes are right."""
        return max(self)

    @property
    def worst(self) -> float:
        """The network begins when all else is done."""
        return max(self.compute, self.memory) + self.network

    @property
    def bound(self) -> str:
        """The name of the longest term."""
        return max(self._fields, key=lambda name: getattr(self, name))


class HostInput(NamedTuple):
    """What the host of some chips has to read."""

    pictures: float  # a second
    workers: int  # processes, each with a core of its own
    bytes: float  # a second, from storage


def step_time(work: Work, chip: Chip, chips: int) -> StepTime:
    """The terms of a step in which `chips` share a batch, each with this work."""
    return StepTime(
        compute=work.flops / chip.flops,
        memory=work.bytes_accessed / chip.memory_rate,
        network=all_reduce_seconds(work.reduced_bytes, chip, chips),
    )


def all_reduce_seconds(size: float, chip: Chip, chips: int) -> float:
    """The time to sum `size` bytes over all chips: within each pod or host, and the parts between them.

    Within, each chip ends with the sum of its own part (a reduce-scatter), which it then shares with
    its counterparts in the other pods; at last all parts are gathered. Delays of single messages
    are left out.
    """
    inner = min(chips, chip.inner_chips)
    outer = math.ceil(chips / inner)
    rate = chip.inner_rate if inner >= chip.ring_chips else chip.inner_rate / 2
    return ring_seconds(size, inner, rate) + ring_seconds(size / inner, outer, chip.outer_rate)


def ring_seconds(size: float, members: int, rate: float) -> float:
    """An all-reduce in a ring: everybody sends (and gets) 2 (n - 1) / n of the size."""
    return 2 * (members - 1) / members * size / rate


def efficiency(work: Work, chip: Chip, chips: int) -> float:
    """Pictures a second and chip, relative to a chip alone, if nothing hides the network (see `StepTime`)."""
    return step_time(work, chip, 1).worst / step_time(work, chip, chips).worst


def least_efficiency(work: Work, chip: Chip, chips: int) -> float:
    """The same for a chip that does nothing but arithmetic, at its full rate.

    A slower chip waits for the network no longer, so that its efficiency is higher.
    """
    return efficiency(work._replace(bytes_accessed=0.0), chip, chips)


def host_input(work: Work, chip: Chip, step_seconds: float) -> HostInput:
    """What the input pipeline of one host has to deliver for its chips."""
    pictures = work.pictures * chip.host_chips / step_seconds
    return HostInput(pictures, math.ceil(pictures * PICTURE_SECONDS), pictures * PICTURE_BYTES)
