"""Writes the tables of docs/scaling.md from reports of `main.py compile`.

python scripts/scaling.py
python scripts/scaling.py --reports=DIR --document=FILE.md

Each table replaces the text between <!-- NAME --> and <!-- end --> in the document.
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
from gfl_jax.compilation.cycles import MOVES  # noqa: E402
from gfl_jax.compilation.scaling import COCO_IMAGES, host_input, step_seconds  # noqa: E402
from gfl_jax.errors import UserError, exit_status  # noqa: E402
from gfl_jax.files import read_file, require_writable_file, write_file  # noqa: E402
from gfl_jax.paths import local_path  # noqa: E402

DOCS = ROOT / "docs"
CHIP_COUNTS = (8, 16, 64, 256, 1024)
IMAGES = 8  # on each chip, for weak scaling: more chips mean larger batches
GLOBAL_BATCH = 256  # for strong scaling: more chips mean fewer images on each

Report = dict[str, Any]
Rows = list[list[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 2 after bad input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    text = "folder of the reports (default docs/scaling)"
    parser.add_argument("--reports", type=local_path, default=DOCS / "scaling", metavar="DIR", help=text)
    text = "document to update (default docs/scaling.md)"
    parser.add_argument("--document", type=local_path, default=DOCS / "scaling.md", metavar="FILE", help=text)

    def run() -> int:
        args = parser.parse_args(arguments)
        text = read_file(args.document).decode()
        require_writable_file(args.document)
        write_file(args.document, with_tables(text, tables(read_reports(args.reports))))
        print(args.document)
        return 0

    return exit_status(run)


def read_reports(folder: Path) -> list[Report]:
    """Reads the reports in a folder, sorted by file name.

    Raises:
      UserError: there are no reports, or a file is not a report.
    """
    reports = [_read_report(file) for file in sorted(folder.glob("*.json"))]
    if not reports:
        raise UserError(f"{folder}: has no reports; make them with main.py compile --sweep=... --json=FILE")
    return reports


def _read_report(file: Path) -> Report:
    try:
        report: Report = json.loads(read_file(file))
        _ = report["kind"], [(part["part"], part["images_per_chip"]) for part in report["parts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is not a report of main.py compile ({error!r}); make it again") from error
    return report


def with_tables(document: str, found: dict[str, Rows]) -> str:
    """Inserts the tables into the document.

    Raises:
      UserError: the document has no place for a table.
    """
    for name, rows in found.items():
        match = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", document, re.DOTALL)
        if match is None:
            raise UserError(
                f"the document has no place for the table `{name}`; add <!-- {name} --> and <!-- end -->"
            )
        document = document[: match.start(1)] + _markdown(rows) + document[match.end(1) :]
    return document


def tables(reports: Sequence[Report]) -> dict[str, Rows]:
    """Makes all tables. The first row of each is its headings."""
    return {
        "training": _programs(reports, "train"),
        "inference": _programs(reports, "inference"),
        "weak": _weak(reports),
        "strong": _strong(reports),
        "input": _input(reports),
    }


def _programs(reports: Sequence[Report], name: str) -> Rows:
    """Makes the table of the programs for a single chip."""
    rows = [["chip", "images", "million cycles per image", "share moving data", "share of peak FLOP/s"]]
    rows[0] += ["images/s", "temporaries, GiB"]
    for kind, part in _measured(reports, name):
        chip, cycles = CHIPS[kind], part["cycles"]
        total, images = cycles["total"], part["images_per_chip"]
        rows.append([kind, str(images), f"{total / images / 1e6:.1f}"])
        rows[-1] += [f"{cycles['by_kind'].get(MOVES, 0) / total:.0%}"]
        rows[-1] += [f"{part['flops'] / (total / chip.clock * chip.flops):.0%}"]
        rows[-1] += [f"{images * chip.clock / total:.0f}", f"{part['memory']['temporaries'] / GIB:.2f}"]
    return rows


def _measured(reports: Sequence[Report], name: str) -> list[tuple[str, Any]]:
    """Returns (kind, part) of the programs for single chips whose cycles the compiler estimated."""
    found = [
        (report["kind"], part)
        for report in reports
        if report["chips"] == 1
        for part in report["parts"]
        if part["part"] == name and part.get("cycles")
    ]
    return sorted(found, key=lambda pair: (pair[0], pair[1]["images_per_chip"]))


def _kinds(reports: Sequence[Report]) -> list[str]:
    """Returns the kinds of chips that have training programs."""
    return list(dict.fromkeys(kind for kind, _ in _measured(reports, "train")))


def _step(reports: Sequence[Report], kind: str, images: int, chips: int) -> float | None:
    """Returns the seconds of a step with `images` on each chip. None: no such program was compiled."""
    for found, part in _measured(reports, "train"):
        if (found, part["images_per_chip"]) == (kind, images):
            return step_seconds(part["cycles"]["total"], reports[0]["gradient_bytes"], CHIPS[kind], chips)
    return None


def _weak(reports: Sequence[Report]) -> Rows:
    kinds = _kinds(reports)
    rows = [["chips", "global batch", *(f"{kind}: step, ms; efficiency; epoch, min" for kind in kinds)]]
    for chips in CHIP_COUNTS:
        rows.append([str(chips), str(IMAGES * chips)])
        for kind in kinds:
            step, alone = _step(reports, kind, IMAGES, chips), _step(reports, kind, IMAGES, 1)
            if step is None or alone is None:
                rows[-1].append("-")
                continue
            minutes = COCO_IMAGES / (IMAGES * chips) * step / 60
            rows[-1].append(f"{step * 1e3:.1f}; {alone / step:.1%}; {minutes:.2f}")
    return rows


def _strong(reports: Sequence[Report]) -> Rows:
    kinds = _kinds(reports)
    rows = [["chips", "images per chip", *(f"{kind}: step, ms; 12 epochs, min" for kind in kinds)]]
    for images in (8, 4, 2, 1):
        chips = GLOBAL_BATCH // images
        rows.append([str(chips), str(images)])
        for kind in kinds:
            step = _step(reports, kind, images, chips)
            minutes = 0 if step is None else 12 * COCO_IMAGES / GLOBAL_BATCH * step / 60
            rows[-1].append("-" if step is None else f"{step * 1e3:.1f}; {minutes:.1f}")
    return rows


def _input(reports: Sequence[Report]) -> Rows:
    rows = [["chip", "images/s per host", "data workers", "host cores", "storage, MB/s"]]
    for kind in _kinds(reports):
        chip, step = CHIPS[kind], _step(reports, kind, IMAGES, 1)
        if step is not None:
            need = host_input(IMAGES, step, chip)
            rows.append([kind, f"{need.images:,.0f}", str(need.workers), str(chip.host_cores)])
            rows[-1].append(f"{need.bytes / 1e6:.0f}")
    return rows


def _markdown(rows: Rows) -> str:
    rule = ["---"] + ["---:"] * (len(rows[0]) - 1)
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], rule, *rows[1:]])


if __name__ == "__main__":
    sys.exit(main())
