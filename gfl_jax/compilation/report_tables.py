"""The report of `main.py compile` for people."""

import functools
from collections.abc import Callable

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gfl_jax.compilation.chips import GIB
from gfl_jax.compilation.measures import Measures, Memory
from gfl_jax.compilation.report import PartReport, Report
from gfl_jax.compilation.topology import LOCAL
from gfl_jax.console.plain import plain


def report_tables(report: Report) -> Group:
    """A table of what each program needs and does, one of what it sends, and the verdict."""
    title = f"{report.config} ({report.precision}) on {_chips(report)}"
    return Group(plain(title), _measures_table(report), _collectives_table(report), Text(verdict(report)))


def verdict(report: Report) -> str:
    """One line for each program: whether it fits, and why not."""
    capacity = report.target.capacity
    of = "an unknown memory" if capacity is None else f"{_gib(capacity)} GiB"

    def line(part: PartReport) -> str:
        if not isinstance(part.result, Measures):
            return f"{part.part}: {part.batch}: does not fit: {part.result.reason}"
        fits = "fits" if part.fits(capacity) else "does not fit"
        return f"{part.part}: {part.batch}: {fits}, {_gib(part.result.memory.total)} GiB of {of}"

    return "\n".join(line(part) for part in report.parts)


def _measures_table(report: Report) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("a chip, a batch")
    for part in report.parts:
        table.add_column(part.part, justify="right")

    def row(name: str, value: Callable[[PartReport], object]) -> None:
        table.add_row(name, *(str(value(part)) for part in report.parts))

    def measured(name: str, value: Callable[[Measures], str]) -> None:
        row(name, lambda part: value(part.result) if isinstance(part.result, Measures) else "-")

    row("pictures", lambda part: part.pictures_per_chip)
    row("canvas", lambda part: f"{part.canvas[0]}x{part.canvas[1]}")
    for kind in (*Memory._fields, "total"):
        measured(f"memory: {kind} (GiB)", functools.partial(_memory_of, kind))
    measured("GFLOP", lambda found: f"{found.flops / 1e9:,.1f}")
    measured("bytes accessed (GB)", lambda found: f"{found.bytes_accessed / 1e9:,.1f}")
    if report.target.name != LOCAL:
        measured(
            "cycles (millions, the compiler's guess)",
            lambda found: f"{(found.estimated_cycles or 0) / 1e6:,.1f}",
        )
    row("compilations of a run", lambda part: part.compilations)
    row("seconds for one", lambda part: round(part.compile_seconds))
    return table


def _collectives_table(report: Report) -> Table:
    table = Table("program", "collective", box=box.SIMPLE)
    for heading in ("count", "of these in loops", "MB", "types", "chips in a group"):
        table.add_column(heading, justify="right")
    for part in report.parts:
        found = part.result.collectives if isinstance(part.result, Measures) else []
        for c in found:
            numbers = (str(c.instructions), str(c.in_loops), f"{c.bytes / 1e6:,.3f}")
            table.add_row(part.part, c.kind, *numbers, ", ".join(c.dtypes), str(c.largest_group))
        if not found:
            table.add_row(part.part, "none" if isinstance(part.result, Measures) else "-", *[""] * 5)
    return table


def _memory_of(kind: str, found: Measures) -> str:
    return _gib(getattr(found.memory, kind))


def _chips(report: Report) -> str:
    count = len(report.target.devices)
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    return f"{report.target.name}: {count} x {report.target.kind}, mesh {mesh}"


def _gib(size: float) -> str:
    return f"{size / GIB:.3f}"
