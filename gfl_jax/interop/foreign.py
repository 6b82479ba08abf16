"""Weights of other projects in the place of ours, every entry of their files accounted for."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path
from rich.table import Table

from gfl_jax.config import Detector
from gfl_jax.console.plain import plain
from gfl_jax.errors import UserError
from gfl_jax.interop.foreign_names import mmdetection_name
from gfl_jax.interop.state_dicts import read_state_dict
from gfl_jax.interop.torch_names import Matched, match_entries
from gfl_jax.models.network import build_detector


def detector_shapes(detector: Detector) -> dict[str, Any]:
    """The shapes and dtypes of a detector's variables, without computing them."""
    shapes: Any = jax.eval_shape(build_detector(detector).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return dict(shapes)


def read_matched(path: str | Path, variables: Mapping[str, Any], detector: Detector) -> Matched:
    """Reads a file of PyTorch weights and finds the place of each of its entries.

    Args:
      path: of a kind that `read_state_dict` reads, named as `mmdetection_name` knows.
      variables: {"params": ..., "batch_stats": ...} of arrays or of their shapes, or parts of them.
      detector: the detector that they belong to.

    Raises:
      UserError: the file cannot be read, or two of its entries mean the same.
    """
    state_dict = dict[str, np.ndarray]()
    for name, x in read_state_dict(path).items():
        if mmdetection_name(name) in state_dict:
            raise UserError(f"{path}: two of its entries are {mmdetection_name(name)}; keep one of them")
        state_dict[mmdetection_name(name)] = x
    return match_entries(state_dict, variables, detector)


def account_table(matched: Matched) -> Table:
    """How many entries were used, and of those that were not, how many and the first ones."""
    table = Table("entries", "count", "the first ones")
    table.add_row("used", str(len(matched.arrays)), "")
    table.add_row("nothing learned in them", str(len(matched.constants)), plain(_first(matched.constants)))
    for title, entries in (
        ("left over", matched.left_over),
        ("missing", matched.missing),
        ("of another shape", matched.other_shape),
    ):
        table.add_row(title, str(len(entries)), plain(_first([entry.name for entry in entries])))
    return table


def difference_table(matched: Matched, most: int = 10) -> Table:
    """The first entries that do not fit."""
    table = Table("entry", "in the file", "in the detector")
    for name, found, wanted in matched.differences[:most]:
        table.add_row(plain(name), _shape(found), _shape(wanted))
    if len(matched.differences) > most:
        table.caption = f"and {len(matched.differences) - most} more"
    return table


def _first(names: list[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else " x ".join(map(str, shape)) or "one number"
