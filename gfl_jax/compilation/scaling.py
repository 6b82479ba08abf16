"""Predicts the time of a training step on many chips: one chip's cycles plus the sum of all gradients.

The cycles are the compiler's estimate for its own program. The network rates are published values. Nothing
here is fitted or measured.
"""

import math
from typing import NamedTuple

from gfl_jax.compilation.chips import Chip

# Work of the input pipeline for one image of 640x480, in seconds of one core (JPEG to uint8 on the canvas).
IMAGE_SECONDS = 3.8e-3
# COCO train2017: 118,287 images, 18 GB.
COCO_IMAGES = 118_287
IMAGE_BYTES = 18e9 / COCO_IMAGES


class HostInput(NamedTuple):
    """The input that one host has to deliver for its chips."""

    images: float  # per second
    workers: int  # processes, each with its own core
    bytes: float  # per second, from storage


def step_seconds(cycles: float, reduced_bytes: float, chip: Chip, chips: int) -> float:
    """The time of a step in which each chip computes for `cycles`, and then all chips sum their gradients.

    It is an upper bound if the cycles are right: XLA sends much of the gradients while it computes.
    """
    return cycles / chip.clock + all_reduce_seconds(reduced_bytes, chip, chips)


def all_reduce_seconds(size: float, chip: Chip, chips: int) -> float:
    """The time to sum `size` bytes over all chips: within each pod or host, then between them.

    Within a pod, each chip first gets the sum of its own part (a reduce-scatter). It then sums this part with
    its counterparts in the other pods. Finally all parts are gathered within the pod. The latency of single
    messages is left out.
    """
    inner = min(chips, chip.inner_chips)
    outer = math.ceil(chips / inner)
    rate = chip.inner_rate if inner >= chip.ring_chips else chip.inner_rate / 2
    return ring_seconds(size, inner, rate) + ring_seconds(size / inner, outer, chip.outer_rate)


def ring_seconds(size: float, members: int, rate: float) -> float:
    """The time of an all-reduce in a ring: each member sends (and gets) 2 (n - 1) / n of the size."""
    return 2 * (members - 1) / members * size / rate


def host_input(images_per_chip: float, step: float, chip: Chip) -> HostInput:
    """The input that one host has to deliver for its chips, if a step takes `step` seconds."""
    images = images_per_chip * chip.host_chips / step
    return HostInput(images, math.ceil(images * IMAGE_SECONDS), images * IMAGE_BYTES)
