"""The report of `main.py compile` as tables."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gfl_jax.compilation.chips import CHIPS, GIB
from gfl_jax.compilation.cycles import Cycles
from gfl_jax.compilation.measures import Measures, Memory
from gfl_jax.compilation.report import PartReport, Report, quickest
from gfl_jax.console.plain import plain

MOST_MOVING = 1 / 3  # of the cycles; a program that spends more on moving data gets a warning


def report_tables(report: Report) -> Group:
    """Tables of what each program needs and computes, of its cycles, of what it sends; and the verdict."""
    title = f"{report.config} ({report.precision}) on {_chips(report)}"
    estimated = any(part.cycles_per_image is not None for part in report.parts)
    cycles = [_cycles_table(report)] if estimated else []
    return Group(
        plain(title), _measures_table(report), *cycles, _collectives_table(report), Text(verdict(report))
    )


def verdict(report: Report) -> str:
    """Lines about each program: whether it fits, a warning if it moves much data; and the fastest batch."""
    capacity = report.target.capacity
    of = "unknown memory" if capacity is None else f"{_gib(capacity)} GiB"

    def line(part: PartReport) -> str:
        if not isinstance(part.result, Measures):
            return f"{part.part}: {part.batch}: does not fit: {part.result.reason}"
        fits = "fits" if part.fits(capacity) else "does not fit"
        return f"{part.part}: {part.batch}: {fits}, {_gib(part.result.memory.total)} GiB of {of}"

    def warning(part: PartReport) -> list[str]:
        if not isinstance(part.result, Measures) or part.result.cycles is None:
            return []
        moving = part.result.cycles.moving
        text = f"warning: {part.part}: {part.batch}: {moving:.0%} of the cycles only move data"
        return [text] if moving > MOST_MOVING else []

    def best(name: str) -> list[str]:
        parts = [part for part in report.parts if part.part == name]
        found = quickest(part for part in parts if part.fits(capacity))
        if found is None or len(parts) == 1:
            return []
        return [f"{name}: {found.batch} takes the fewest cycles per image"]

    lines = [text for part in report.parts for text in (line(part), *warning(part))]
    return "\n".join([*lines, *best("train"), *best("inference")])


def _measures_table(report: Report) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("per chip and batch")
    for part in report.parts:
        table.add_column(part.part, justify="right")

    def row(name: str, value: Callable[[PartReport], object]) -> None:
        table.add_row(name, *(str(value(part)) for part in report.parts))

    def measured(name: str, value: Callable[[Measures], str]) -> None:
        row(name, lambda part: value(part.result) if isinstance(part.result, Measures) else "-")

    row("images", lambda part: part.images_per_chip)
    row("canvas", lambda part: f"{part.canvas[0]}x{part.canvas[1]}")
    for kind in (*Memory._fields, "total"):
        measured(f"memory: {kind} (GiB)", functools.partial(_memory_of, kind))
    measured("GFLOP", lambda found: f"{found.flops / 1e9:,.1f}")
    measured("bytes accessed (GB)", lambda found: f"{found.bytes_accessed / 1e9:,.1f}")
    row("compilations per run", lambda part: part.compilations)
    row("seconds per compilation", lambda part: round(part.compile_seconds))
    return table


def _cycles_table(report: Report) -> Table:
    """Estimated million cycles per image: in total, by kind of work, by part of the detector."""
    found = [(part, part.result.cycles) for part in report.parts if isinstance(part.result, Measures)]
    estimates = [(part, cycles) for part, cycles in found if cycles is not None]
    table = Table("million cycles per image (the compiler's estimate)", box=box.SIMPLE)
    for part, _ in estimates:
        table.add_column(f"{part.part}, {part.images_per_chip}", justify="right")

    def row(name: str, count: Callable[[Cycles], float]) -> None:
        table.add_row(
            name, *(f"{count(cycles) / part.images_per_chip / 1e6:,.2f}" for part, cycles in estimates)
        )

    row("total", lambda cycles: cycles.total)
    chip = CHIPS[report.target.kind]
    table.add_row(
        "share of the matrix units' peak", *(f"{part.share_of_peak(chip):.0%}" for part, _ in estimates)
    )
    row("in loops", lambda cycles: cycles.in_loops)
    table.add_row(
        "loops of unknown length, counted once", *(str(cycles.open_loops) for _, cycles in estimates)
    )
    table.add_section()
    for kind in _names(cycles.by_kind for _, cycles in estimates):
        row(kind, functools.partial(_count_of, "by_kind", kind))
    table.add_section()
    for name in _names(cycles.by_part for _, cycles in estimates):
        row(name, functools.partial(_count_of, "by_part", name))
    return table


def _count_of(by: str, name: str, cycles: Cycles) -> int:
    counts: Mapping[str, int] = getattr(cycles, by)
    return counts.get(name, 0)


def _names(counts: Iterable[Mapping[str, int]]) -> list[str]:
    """The names in all counts, with the largest total first."""
    total = Counter[str]()
    for count in counts:
        total.update(count)
    return [name for name, _ in total.most_common()]


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
