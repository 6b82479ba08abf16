"""The `verify` command: recomputes reference values of mmdetection."""

import argparse

from gfl_jax.command_line.arguments import file_name
from gfl_jax.configuration.config_files import load_config
from gfl_jax.configuration.overrides import parse_overrides
from gfl_jax.paths import local_path

TEXT = """\
Computes values with this package and compares them with stored values of mmdetection.

  python main.py verify --dtype=float64
  python main.py verify --dtype=float64 --detector=all
  python main.py verify --reference=FILE.npz --config=configs/gfl_r50_fpn_1x_coco.py

The values are features, outputs, targets, losses, gradients, detections and a few steps of training. They are
recomputed on this machine. The exit status is 1 if any of them deviates by more than its tolerance."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    command.add_argument(
        "--dtype",
        choices=["float64", "float32", "bfloat16"],
        default="float32",
        help="type of the arithmetic to verify (default float32)",
    )
    command.add_argument(
        "--detector",
        choices=["gfl", "atss", "fcos", "fcos_tricks", "gfl_r101_dcn", "gflv2", "ld", "all"],
        default="gfl",
        help="reference detector to verify (default gfl)",
    )
    command.add_argument(
        "--reference", type=local_path, metavar="FILE", help="reference file to verify instead, for --config"
    )
    command.add_argument(
        "--config",
        type=file_name,
        metavar="FILE",
        help="config of the detector in --reference (default gfl_r50_fpn_1x_coco)",
    )


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    from rich.console import Console
    from rich.table import Table

    from gfl_jax.console.plain import plain
    from gfl_jax.verification.verify import DEFAULT_CONFIG, DETECTORS, verify_default, verify_file

    if args.reference:
        config = parse_overrides(load_config(args.config or DEFAULT_CONFIG), overrides)
        rows = verify_file(args.reference, config, args.dtype)
    else:
        rows = verify_default(args.dtype, list(DETECTORS) if args.detector == "all" else [args.detector])
    console = Console()
    table = Table("part", "largest relative deviation", "tolerance", "verdict")
    failed = 0
    with console.status("compiling and computing") as status:
        for row in rows:
            status.update(plain(row.part))
            failed += not row.passed
            verdict = "passed" if row.passed else "[red]FAILED[/red]"
            table.add_row(plain(row.part), f"{row.deviation:.1e}", f"{row.tolerance:.0e}", verdict)
    console.print(table)
    print(f"{table.row_count - failed} passed, {failed} failed in {args.dtype}")
    return int(failed > 0)
