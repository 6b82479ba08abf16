"""Reads weights of other projects into variables of a detector, and reports on every entry of the file."""

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
    """The shapes and dtypes of a detector's variables, without computing the variables."""
    shapes: Any = jax.eval_shape(build_detector(detector).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return dict(shapes)


def read_matched(path: str | Path, variables: Mapping[str, Any], detector: Detector) -> Matched:
    """Reads a file of PyTorch weights and matches its entries with variables.

    Args:
      path: a file that `read_state_dict` reads, with entry names that `mmdetection_name` knows.
      variables: {"params": ..., "batch_stats": ...} of arrays or of their shapes, or parts of them.
      detector: the detector that the variables belong to.

    Raises:
      UserError: the file cannot be read, or two of its entries have the same meaning.
    """
    state_dict = dict[str, np.ndarray]()
    for name, x in read_state_dict(path).items():
        if mmdetection_name(name) in state_dict:
            raise UserError(f"{path}: two of its entries mean {mmdetection_name(name)}; keep one of them")
        state_dict[mmdetection_name(name)] = x
    return match_entries(state_dict, variables, detector)


def account_table(matched: Matched) -> Table:
    """A table of the number of entries that were used and not used, with the first ones that were not."""
    table = Table("entries", "count", "first entries")
    table.add_row("used", str(len(matched.arrays)), "")
    table.add_row("not learned", str(len(matched.constants)), plain(_first(matched.constants)))
    for title, entries in (
        ("not in the detector", matched.left_over),
        ("not in the file", matched.missing),
        ("wrong shape", matched.other_shape),
    ):
        table.add_row(title, str(len(entries)), plain(_first([entry.name for entry in entries])))
    return table


def difference_table(matched: Matched, most: int = 10) -> Table:
    """A table of the first entries that do not fit."""
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
