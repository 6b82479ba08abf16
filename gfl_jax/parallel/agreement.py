"""Tells which process of a run this is, and lets all processes decide alike."""

import json
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def is_first() -> bool:
    """Returns whether this is process 0, which prints and writes."""
    return jax.process_index() == 0


def from_first(value: T) -> T:
    """Returns process 0's value on all processes, for common decisions. It must be serializable as JSON."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode() if is_first() else b"", np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, length))
    return json.loads(bytes(text))
