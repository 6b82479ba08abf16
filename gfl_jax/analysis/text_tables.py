"""Tables that are printed on a rich console and written as CSV."""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import rich.table
from etils.epath import Path

from gfl_jax.console.plain import plain
from gfl_jax.files import write_file

Cell = str | int | float


class Table(NamedTuple):
    """Rows of text and numbers under headings. An unknown number is NaN."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    caption: str = ""


def for_console(table: Table, digits: int = 2) -> rich.table.Table:
    """Converts a table for rich, with numbers aligned on the right."""
    shown = rich.table.Table(
        title=plain(table.title), caption=plain(table.caption) if table.caption else None
    )
    for heading, *column in zip(table.headings, *table.rows, strict=True):
        text = any(isinstance(cell, str) for cell in column)
        shown.add_column(plain(heading), justify="left" if text else "right")
    for row in table.rows:
        shown.add_row(*(plain(_text(cell, digits)) for cell in row))
    return shown


def write_csv(path: Path, table: Table) -> None:
    """Writes headings and rows as CSV: numbers with six digits, unknown numbers as empty cells."""
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(table.headings)
    for row in table.rows:
        writer.writerow([_written(cell) for cell in row])
    write_file(path, content.getvalue())


def _written(cell: Cell) -> Cell:
    if not isinstance(cell, float):
        return cell
    return "" if math.isnan(cell) else f"{cell:.6g}"


def _text(cell: Cell, digits: int) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return "-" if math.isnan(cell) else f"{cell:.{digits}f}"
