"""Makes the tables and the figure of docs/scaling.md from reports of `main.py compile`.

python scripts/scaling.py
python scripts/scaling.py --reports=DIR --document=FILE.md --figure=FILE.png

The tables replace what stands between <!-- NAME --> and <!-- end --> in the document.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

from gfl_jax.compilation.chips import CHIPS, GIB  # noqa: E402
from gfl_jax.compilation.scaling import (  # noqa: E402
    COCO_PICTURES,
    Work,
    efficiency,
    host_input,
    least_efficiency,
    step_time,
)
from gfl_jax.drawing.figure import COLORS, new_figure, save_figure, tidy  # noqa: E402
from gfl_jax.errors import UserError, exit_status  # noqa: E402
from gfl_jax.files import read_file, require_writable_file, write_file  # noqa: E402
from gfl_jax.paths import local_path  # noqa: E402

DOCS = ROOT / "docs"
CHIP_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
GLOBAL_BATCH = 256  # of the table in which more chips mean fewer pictures on each

Report = dict[str, Any]
Rows = list[list[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 2 after bad input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--reports", type=local_path, default=DOCS / "scaling", metavar="DIR")
    parser.add_argument("--document", type=local_path, default=DOCS / "scaling.md", metavar="FILE")
    parser.add_argument("--figure", type=local_path, default=DOCS / "scaling.png", metavar="FILE")

    def run() -> int:
        args = parser.parse_args(arguments)
        text = read_file(args.document).decode()
        for file in (args.document, args.figure):
            require_writable_file(file)
        reports = read_reports(args.reports)
        write_file(args.document, with_tables(text, tables(reports)))
        draw(reports, args.figure)
        print(f"{args.document}\n{args.figure}")
        return 0

    return exit_status(run)


def read_reports(folder: Path) -> list[Report]:
    """The reports in a folder, by kind of chip, precision and number of chips.

    Raises:
      UserError: there is none of training on a v5e with bfloat16, which the predictions start from.
    """
    reports = [_read_report(file) for file in folder.glob("*.json")]
    reports.sort(key=lambda r: (r["kind"], r["precision"], r["mesh"]["fsdp"], r["chips"]))
    if not any(_is_basis(report, "v5e") for report in reports):
        raise UserError(f"{folder}: has no report of v5e in bfloat16; make one with main.py compile --json")
    return reports


def _read_report(file: Path) -> Report:
    try:
        report: Report = json.loads(read_file(file))
        _ = report["kind"], report["precision"], report["mesh"]["fsdp"], report["chips"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is no report of main.py compile ({error!r}); make it anew") from error
    return report


def with_tables(document: str, found: dict[str, Rows]) -> str:
    """The document with the tables in their places.

    Raises:
      UserError: it has no place for one of them.
    """
    for name, rows in found.items():
        place = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", document, re.DOTALL)
        if place is None:
            raise UserError(f"the document has no place for the table `{name}`: <!-- {name} --> <!-- end -->")
        document = document[: place.start(1)] + _markdown(rows) + document[place.end(1) :]
    return document


def tables(reports: Sequence[Report]) -> dict[str, Rows]:
    """All tables, each with its headings as first row."""
    return {
        "training": _compiled(reports, "train"),
        "inference": _compiled(reports, "inference"),
        "rates": _rates(),
        "terms": _terms(reports),
        "weak": _weak(reports),
        "strong": _strong(reports),
        "input": _input(reports),
    }


def work_of(reports: Sequence[Report], kind: str) -> Work:
    """One chip's train step, from the report of its own kind; without one, of v5e."""
    report = next((r for name in (kind, "v5e") for r in reports if _is_basis(r, name)), None)
    assert report is not None  # `read_reports` has looked
    part = _part(report, "train")
    sent = sum(c["bytes"] for c in part["collectives"])
    return Work(part["pictures_per_chip"], part["flops"], part["bytes_accessed"], sent)


def _is_basis(report: Report, kind: str) -> bool:
    plain = report["precision"] == "bfloat16" and report["mesh"]["fsdp"] == 1
    return plain and report["kind"] == kind and "memory" in (_part(report, "train") or {})


def _part(report: Report, name: str) -> Any:
    return next((part for part in report["parts"] if part["part"] == name), None)


def _compiled(reports: Sequence[Report], name: str) -> Rows:
    heading = ["topology", "mesh", "precision", "pictures a chip", "memory, GiB", "of these temporaries"]
    heading += ["GFLOP", "accessed, GB", "million cycles", "sent, MB"]
    rows = [heading]
    for report in reports:
        part = _part(report, name)
        if part is None or "memory" not in part:
            continue
        mesh = f"{report['mesh']['data']} x {report['mesh']['fsdp']}"
        sent = [f"{c['kind']} {c['bytes'] / 1e6:.1f}" for c in part["collectives"] if c["bytes"] > 5e4]
        memory = part["memory"]
        rows.append([report["topology"], mesh, report["precision"], str(part["pictures_per_chip"])])
        rows[-1] += [f"{memory['total'] / GIB:.2f}", f"{memory['temporaries'] / GIB:.2f}"]
        rows[-1] += [f"{part['flops'] / 1e9:,.1f}", f"{part['bytes_accessed'] / 1e9:.1f}"]
        rows[-1] += [f"{(part['estimated_cycles'] or 0) / 1e6:.1f}", ", ".join(sent) or "nothing"]
    return rows


def _rates() -> Rows:
    rows = [["chip", "memory, GiB", "bfloat16, TFLOP/s", "memory, GB/s", "ICI or NVLink, GB/s"]]
    rows[0] += ["joins, chips", "between pods or hosts, GB/s", "chips of a host", "cores of a host"]
    for name, chip in CHIPS.items():
        rows.append([name, f"{chip.memory / GIB:.2f}", f"{chip.flops / 1e12:.0f}"])
        rows[-1] += [f"{chip.memory_rate / 1e9:.0f}", f"{chip.inner_rate / 1e9:.0f}", str(chip.inner_chips)]
        rows[-1] += [f"{chip.outer_rate / 1e9:.3g}", str(chip.host_chips), str(chip.host_cores)]
    return rows


def _terms(reports: Sequence[Report]) -> Rows:
    rows = [["chip", "compute, ms", "memory, ms", "all-reduce on 8 chips, ms", "on 256", "on 1024", "binds"]]
    for name, chip in CHIPS.items():
        found = [step_time(work_of(reports, name), chip, chips) for chips in (8, 256, 1024)]
        times = [found[0].compute, found[0].memory, *(terms.network for terms in found)]
        rows.append([name, *(f"{time * 1e3:.2f}" for time in times), found[-1].bound])
    return rows


def _weak(reports: Sequence[Report]) -> Rows:
    rows = [["chips", "global batch", "steps an epoch"]]
    rows[0] += [f"{name}: step, ms; efficiency, at least; epoch, min" for name in CHIPS]
    for chips in CHIP_COUNTS:
        pictures = int(work_of(reports, "v5e").pictures) * chips
        rows.append([str(chips), str(pictures), f"{COCO_PICTURES / pictures:.0f}"])
        for name, chip in CHIPS.items():
            work = work_of(reports, name)
            step = step_time(work, chip, chips).worst
            minutes = COCO_PICTURES / (work.pictures * chips) * step / 60
            share, least = efficiency(work, chip, chips), least_efficiency(work, chip, chips)
            rows[-1].append(f"{step * 1e3:.1f}; {share:.1%}, {least:.1%}; {minutes:.2f}")
    return rows


def _strong(reports: Sequence[Report]) -> Rows:
    rows = [["chips", "pictures a chip", *(f"{name}: step, ms; efficiency, at least" for name in CHIPS)]]
    for chips in (64, 128, 256):
        pictures = GLOBAL_BATCH // chips
        rows.append([str(chips), str(pictures)])
        for name, chip in CHIPS.items():
            full = work_of(reports, name)
            share = pictures / full.pictures
            work = Work(pictures, full.flops * share, full.bytes_accessed * share, full.reduced_bytes)
            step = step_time(work, chip, chips).worst
            shares = f"{efficiency(work, chip, chips):.1%}, {least_efficiency(work, chip, chips):.1%}"
            rows[-1].append(f"{step * 1e3:.1f}; {shares}")
    return rows


def _input(reports: Sequence[Report]) -> Rows:
    rows = [["chip", "a step takes", "pictures/s a host", "Grain workers", "of cores", "storage, MB/s"]]
    rows[0] += ["all hosts of 256 chips, GB/s"]
    for name, chip in CHIPS.items():
        work = work_of(reports, name)
        terms = step_time(work, chip, 256)
        for words, seconds in (("its longest term", terms.best), ("compute alone", terms.compute)):
            need = host_input(work, chip, seconds)
            rows.append([name, words, f"{need.pictures:,.0f}", str(need.workers), str(chip.host_cores)])
            total = need.bytes * 256 / chip.host_chips
            rows[-1] += [f"{need.bytes / 1e6:.0f}", f"{total / 1e9:.2f}"]
    return rows


def draw(reports: Sequence[Report], path: Path) -> None:
    """Efficiency over the number of chips, and the terms of a step on 256 chips."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    counts = [2**power for power in range(11)]
    for (name, chip), color in zip(CHIPS.items(), COLORS, strict=False):
        work = work_of(reports, name)
        left.plot(counts, [100 * efficiency(work, chip, n) for n in counts], ".-", color=color, label=name)
        left.plot(counts, [100 * least_efficiency(work, chip, n) for n in counts], "--", color=color)
    left.set_xscale("log", base=2)
    left.set_xticks(counts, [str(count) for count in counts])
    left.set_ylim(82, 100.5)
    left.set_xlabel("chips, 4 pictures on each")
    left.set_ylabel("efficiency, %, with nothing to hide the network")
    left.set_title("dashed: if chips did nothing but arithmetic", fontsize=9, loc="right")
    left.legend(frameon=False, loc="lower left", ncols=4, fontsize=9)
    terms = [step_time(work_of(reports, name), chip, 256) for name, chip in CHIPS.items()]
    for i, (field, color) in enumerate(zip(terms[0]._fields, COLORS, strict=False)):
        places = [place + (i - 1) * 0.27 for place in range(len(terms))]
        heights = [1e3 * getattr(term, field) for term in terms]
        bars = right.bar(places, heights, 0.25, color=color, label=field)
        right.bar_label(bars, fmt="%.3g", fontsize=8)
    right.set_yscale("log")
    right.set_xticks(range(len(terms)), list(CHIPS))
    right.set_ylabel("ms of a step on 256 chips")
    right.set_ylim(top=2e3)
    right.legend(frameon=False, loc="upper right", ncols=3)
    for axis in (left, right):
        tidy(axis)
    save_figure(figure, path)


def _markdown(rows: Rows) -> str:
    rule = ["---"] + ["---:"] * (len(rows[0]) - 1)
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], rule, *rows[1:]])


if __name__ == "__main__":
    sys.exit(main())
