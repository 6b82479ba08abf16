"""How long a training step takes on many chips: one chip's cycles, and the sum of all chips' gradients.

The cycles are the compiler's guess of its own program; the network's rates are published ones. Nothing here
is fitted or measured.
"""

import math
from typing import NamedTuple

from gfl_jax.compilation.chips import Chip

# Work of the input pipeline for one image of 640x480: seconds of one core (JPEG to uint8 on the canvas).
IMAGE_SECONDS = 3.8e-3
# COCO train2017: 118,287 images, 18 GB.
COCO_IMAGES = 118_287
IMAGE_BYTES = 18e9 / COCO_IMAGES


class HostInput(NamedTuple):
    """What the host of some chips has to read."""

    images: float  # a second
    workers: int  # processes, each with a core of its own
    bytes: float  # a second, from storage


def step_seconds(cycles: float, reduced_bytes: float, chip: Chip, chips: int) -> float:
    """A step in which each chip computes for so many cycles, and then all add up their gradients.

    It is an upper bound if the cycles are right: XLA sends much of the gradients while it computes.
    """
    return cycles / chip.clock + all_reduce_seconds(reduced_bytes, chip, chips)


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


def host_input(images_per_chip: float, step: float, chip: Chip) -> HostInput:
    """What the input pipeline of one host has to deliver for its chips, with so many seconds a step."""
    images = images_per_chip * chip.host_chips / step
    return HostInput(images, math.ceil(images * IMAGE_SECONDS), images * IMAGE_BYTES)
