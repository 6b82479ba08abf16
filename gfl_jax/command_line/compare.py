"""The `compare` command: tables of the paper."""

import argparse
import sys

from etils.epath import Path

from gfl_jax.command_line.arguments import whole_number
from gfl_jax.comparison.rows import Row, load_table, row_config, select_rows
from gfl_jax.config import Config
from gfl_jax.configuration.experiment_check import check_experiment
from gfl_jax.configuration.overrides import parse_overrides
from gfl_jax.files import require_writable, write_file
from gfl_jax.paths import as_path

TEXT = """\
Trains and evaluates the detectors of a table of the paper, each with several seeds, and prints the table.

  python main.py compare --table=1 --dataset=trees --seeds=3
  python main.py compare --table=boxes --dataset=trees --rows general,general_dfl

The table shows the mean and the standard deviation over the seeds, beside the paper's AP on COCO where it is
known. The tables are defined in configs/table_*.py.

The work directory gets one run for each row and seed, and the results as table.md, table.txt and
results.csv. Rerun the same command to resume."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    command.add_argument(
        "--table", required=True, metavar="NAME", help="table in configs/table_NAME.py: 1, 2, boxes, ..."
    )
    command.add_argument(
        "--dataset", default="coco", metavar="NAME", help="coco, trees or digits (default coco)"
    )
    command.add_argument(
        "--seeds",
        type=whole_number("--seeds", 1),
        default=3,
        metavar="N",
        help="runs of each row (default 3)",
    )
    command.add_argument("--rows", metavar="NAME,NAME", help="only these rows, such as atss_iou,atss_joint")
    command.add_argument(
        "--workdir",
        type=as_path,
        metavar="DIR",
        help="directory of the runs (default runs/table_NAME_DATASET)",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from rich.console import Console

    from gfl_jax.comparison.runs import compare_rows
    from gfl_jax.comparison.table import comparison_table, csv_text, markdown
    from gfl_jax.training.stop import StopRequest

    file, module = load_table(args.table)
    rows = select_rows(module.ROWS, args.rows)
    workdir = args.workdir or Path("runs") / f"{file.stem}_{args.dataset}"

    def make_config(row: Row) -> Config:
        config = parse_overrides(row_config(file, row, args.dataset), overrides)
        check_experiment(config)
        return config

    require_writable(workdir)
    stop, failed = StopRequest(), list[str]()
    results = compare_rows(rows, make_config, args.seeds, workdir, stop=stop, failed=failed)
    table = comparison_table(f"{module.TITLE} ({args.dataset})", rows, results)
    with Console(width=200).capture() as text:  # no line breaks within a row
        Console(width=200).print(table)
    write_file(workdir / "table.txt", text.get())
    write_file(workdir / "table.md", markdown(rows, results))
    write_file(workdir / "results.csv", csv_text(rows, results))
    Console().print(table)
    print(f"table as text, Markdown and CSV: {workdir}/table.txt, table.md, results.csv")
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return stop.status or int(bool(failed))
