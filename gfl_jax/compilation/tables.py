"""The report of `main.py compile` for people."""

from rich import box
from rich.console import Group
from rich.table import Table

from gfl_jax.compilation.chips import GIB
from gfl_jax.compilation.measures import Measures
from gfl_jax.compilation.report import PartReport, Report


def report_tables(report: Report) -> Group:
    """A table of what each program needs and does, one of what it sends, and the verdict."""
    title = f"{report.config} ({report.precision}) on {_chips(report)}"
    return Group(_measures_table(report, title), _collectives_table(report), verdict(report))


def verdict(report: Report) -> str:
    """One line for each program: whether it fits, and why not."""
    capacity = report.target.capacity
    of = "an unknown memory" if capacity is None else f"{_gib(capacity)} GiB"

    def line(part: PartReport) -> str:
        batch = f"{part.part}: {part.pictures_per_chip} pictures of {_by(part.canvas)} per chip"
        if not isinstance(part.result, Measures):
            return f"{batch} do not fit: {part.result.reason}"
        fit = "fit" if part.fits(capacity) else "do not fit"
        return f"{batch} {fit}: {_gib(part.result.memory.total)} GiB of {of}"

    return "\n".join(line(part) for part in report.parts)


def _measures_table(report: Report, title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    table.add_column("a chip, a batch")
    for part in report.parts:
        table.add_column(part.part, justify="right")

    def row(name: str, *values: str) -> None:
        table.add_row(name, *values)

    row("pictures", *(str(part.pictures_per_chip) for part in report.parts))
    row("canvas", *(_by(part.canvas) for part in report.parts))
    results = [part.result for part in report.parts]
    for kind in ("arguments", "outputs", "temporaries", "aliased", "code", "total"):
        row(f"memory: {kind} (GiB)", *(_gib(getattr(r.memory, kind)) if r else "-" for r in map(_good, results)))
    row("GFLOP", *(f"{r.flops / 1e9:,.1f}" if r else "-" for r in map(_good, results)))
    row("bytes accessed (GB)", *(f"{r.bytes_accessed / 1e9:,.1f}" if r else "-" for r in map(_good, results)))
    if any(r and r.estimated_cycles for r in map(_good, results)):
        cycles = [r.estimated_cycles if r else None for r in map(_good, results)]
        row("cycles (millions, the compiler's guess)", *(f"{c / 1e6:,.1f}" if c else "-" for c in cycles))
    row("compilations of a run", *(str(part.compilations) for part in report.parts))
    row("seconds for one", *(f"{part.compile_seconds:.0f}" for part in report.parts))
    return table


def _collectives_table(report: Report) -> Table:
    table = Table("program", "collective", box=box.SIMPLE)
    for heading in ("count", "of these in loops", "MB", "types", "chips in a group"):
        table.add_column(heading, justify="right")
    for part in report.parts:
        found = part.result.collectives if isinstance(part.result, Measures) else []
        for c in found:
            numbers = (str(c.count), str(c.in_loops), f"{c.bytes / 1e6:,.3f}")
            table.add_row(part.part, c.kind, *numbers, ", ".join(c.dtypes), str(c.largest_group))
        if not found:
            table.add_row(part.part, "none" if isinstance(part.result, Measures) else "-", *[""] * 5)
    return table


def _good(result: object) -> Measures | None:
    return result if isinstance(result, Measures) else None


def _chips(report: Report) -> str:
    count = len(report.target.devices)
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    return f"{report.target.name}: {count} x {report.target.kind}, mesh {mesh}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _by(canvas: tuple[int, int]) -> str:
    return f"{canvas[0]}x{canvas[1]}"
