"""The table of all measurements, for a terminal or as Markdown."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import jax
from rich import box
from rich.table import Table

from benchmarks.measure import Row

LEGEND = """\
ms: the time of a call, as median (min..max) over all rounds. time ratio: the ratio to the case under
"relative to", computed round by round, as median (min..max). GFLOP and memory are the compiler's
figures for a call: temp is without arguments and results, total is with them. device peak: the peak
memory so far."""

Column = Callable[[Row, Row | None], str]  # a row, the row that it is compared with -> the cell


def make_table(groups: Sequence[Sequence[Row]], markdown: bool) -> Table:
    """Makes a table with a line for each row, without empty columns.

    Args:
      groups: rows that were measured together, and can be compared.
      markdown: whether to make a Markdown table.
    """
    rows = [row for group in groups for row in group]
    columns: dict[str, Column] = {
        "part": lambda row, _: row.case.part,
        "batch": lambda row, _: f"{row.case.images} x {row.case.size[0]}x{row.case.size[1]}",
        "case": lambda row, _: row.case.name,
        "ms": lambda row, _: _spread([1e3 * x for x in row.seconds]),
        "images/s": lambda row, _: _number(row.images_per_second),
        "per worker": lambda row, _: _quotient(row.images_per_second, row.case.workers),
        "GFLOP": lambda row, _: _quotient(row.flops, 1e9),
        "GFLOP/s": lambda row, _: _quotient(row.flops, 1e9 * statistics.median(row.seconds)),
        "of peak": lambda row, _: _share_of_peak(row, rows),
        "temp MB": lambda row, _: _quotient(row.temporary_bytes, 1e6),
        "total MB": lambda row, _: _quotient(row.total_bytes, 1e6),
        "device peak MB": lambda row, _: _quotient(row.peak_bytes, 1e6),
        "time ratio": lambda row, other: (
            _spread([a / b for a, b in zip(row.seconds, other.seconds, strict=True)]) if other else ""
        ),
        "temp ratio": lambda row, other: (
            _quotient(row.temporary_bytes, other.temporary_bytes) if other else ""
        ),
        "relative to": lambda _, other: other.case.name if other else "",
    }
    by_group = [{row.case.name: row for row in group} for group in groups]
    pairs = [[(row, by_name.get(row.case.against or "")) for row in by_name.values()] for by_name in by_group]
    used = {
        header: cell
        for header, cell in columns.items()
        if any(cell(*pair) for group in pairs for pair in group)
    }
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    texts = ("part", "batch", "case", "relative to")
    for header in used:
        table.add_column(header, justify="left" if header in texts else "right")
    for group in pairs:
        for pair in group:
            table.add_row(*(cell(*pair) for cell in used.values()))
        if not markdown:  # Markdown would show the rule as a row
            table.add_section()
    return table


def describe_machine() -> str:
    """Describes processor, accelerator and versions, in one line each."""
    device = jax.devices()[0]
    lines = [f"- Machine: {_processor()}, {available_cores()} cores, {platform.system()}"]
    if device.platform != "cpu":
        lines.append(f"- Device: one {device.device_kind} ({device.platform})")
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "grain", "numpy"))
    lines.append(f"- Versions: Python {platform.python_version()}, {versions}, OpenCV {cv2.__version__}")
    return "\n".join(lines)


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _share_of_peak(row: Row, rows: Sequence[Row]) -> str:
    """Returns the GFLOP/s in percent of those of the case that stands for the machine's peak."""
    peak = next((other for other in rows if other.case.name == row.case.peak), None)
    if peak is None or not row.flops or not peak.flops:
        return ""
    rates = [x.flops / statistics.median(x.seconds) for x in (row, peak) if x.flops]
    return f"{100 * rates[0] / rates[1]:.0f}%"


def _spread(values: Sequence[float]) -> str:
    return f"{_number(statistics.median(values))} ({_number(min(values))}..{_number(max(values))})"


def _quotient(value: float | None, by: float | None) -> str:
    return _number(value / by) if value is not None and by else ""


def _number(value: float) -> str:
    """Formats with three digits, or with all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
