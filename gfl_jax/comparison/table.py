"""Formats the results of a comparison like the paper's tables: as text, Markdown and CSV."""

import csv
import io
import statistics
from collections.abc import Sequence

from rich import box
from rich.table import Table

from gfl_jax.comparison.rows import Row
from gfl_jax.comparison.runs import Results
from gfl_jax.console.plain import markdown_cell, plain

METRICS = ("AP", "AP50", "AP75")


def comparison_table(title: str, rows: Sequence[Row], results: Results) -> Table:
    """Makes a table for the terminal. `markdown` makes the same table for a README.

    It has a row for each label. Each column group has AP, AP50 and AP75 in percent, as mean and sample
    standard deviation over the seeds, and the paper's AP on COCO if it is known.
    """
    table = Table(title=plain(title), box=box.SIMPLE)
    headers, lines = cells(rows, results)
    for i, header in enumerate(headers):
        table.add_column(plain(header), justify="right" if i else "left")
    for line in lines:
        table.add_row(*map(plain, line))
    return table


def markdown(rows: Sequence[Row], results: Results) -> str:
    """Makes the same table in Markdown."""
    headers, lines = cells(rows, results)
    rule = ["---"] + ["---:"] * (len(headers) - 1)
    return "".join(f"| {' | '.join(map(markdown_cell, line))} |\n" for line in [headers, rule, *lines])


def cells(rows: Sequence[Row], results: Results) -> tuple[list[str], list[list[str]]]:
    """Returns the headers and the lines of the table."""
    columns = list(dict.fromkeys(row.column for row in rows))
    with_paper = {column: any(row.paper_ap for row in rows if row.column == column) for column in columns}
    headers = ["seeds: " + _seeds(results)]
    for column in columns:
        headers += [f"{column} {metric}" for metric in METRICS]
        headers += [f"{column} AP on COCO (paper)"] if with_paper[column] else []
    lines = []
    for label in dict.fromkeys(row.label for row in rows):
        line = [label]
        for column in columns:
            row = next((row for row in rows if (row.label, row.column) == (label, column)), None)
            runs = results[row.name] if row else []
            line += [mean_and_spread([run[metric] for run in runs]) for metric in METRICS]
            if with_paper[column]:
                line.append(f"{row.paper_ap:.1f}" if row and row.paper_ap else "-")
        lines.append(line)
    return headers, lines


def mean_and_spread(values: Sequence[float]) -> str:
    """Formats the mean in percent, and for two or more values their sample standard deviation."""
    if not values:
        return "-"
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def csv_text(rows: Sequence[Row], results: Results) -> str:
    """Makes a CSV with a line for each run and all of its metrics (not in percent)."""
    names = next((list(runs[0]) for runs in results.values() if runs), list(METRICS))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["column", "label", "row", "seed", *names, "paper_ap_on_coco_percent"])
    for row in rows:
        for seed, run in enumerate(results[row.name]):
            paper = "" if row.paper_ap is None else row.paper_ap
            writer.writerow([row.column, row.label, row.name, seed, *(run[name] for name in names), paper])
    return text.getvalue()


def _seeds(results: Results) -> str:
    counts = sorted({len(runs) for runs in results.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
