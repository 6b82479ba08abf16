"""What the command line takes: its commands, their flags and the fields of the config."""

import argparse
import math
import os
from collections.abc import Callable, Sequence

from gfl_jax.command_texts import (
    ANALYZE,
    COMPARE,
    COMPILE,
    CONFIG_HELP,
    EVALUATE,
    EXPORT,
    MODELS,
    PREDICT,
    PROCESSES,
    TRAIN,
    VERIFY,
)
from gfl_jax.errors import UserError
from gfl_jax.paths import as_path, local_path


def file_name(text: str) -> str:
    """The same as text, for a config file, which may have arguments after its name."""
    return os.path.expanduser(text)


def whole_number(flag: str, least: int | None = None) -> Callable[[str], int]:
    """The type of a flag that takes whole numbers, from `least` on if it is given; others are a UserError."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise UserError(f"{flag}={text}: must be a whole number") from error
        if least is not None and number < least:
            raise UserError(f"{flag}={text}: must be at least {least}")
        return number

    return parse


def share(flag: str) -> Callable[[str], float]:
    """The type of a flag that takes numbers from 0 to 1; others are a UserError."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 1:
            raise UserError(f"{flag}={text}: must be a number from 0 to 1")
        return number

    return parse


def config_overrides(rest: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, str]:
    """--config.NAME=VALUE or --config.NAME VALUE, as names and values."""
    overrides: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--config."):
            parser.error(f"unrecognized argument: {word}")
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            if not words:
                parser.error(f"{word}: needs a value: {word}=VALUE")
            value = words.pop(0)
        overrides[name] = value
    return overrides


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `command` is the name of the chosen command."""
    parser = argparse.ArgumentParser(
        prog="main.py", description="Generalized Focal Loss detectors in JAX.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=" ".join(text.split()).split(". ")[0].rstrip("."),
            description=f"{text}\n\n{CONFIG_HELP}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    train = command("train", TRAIN)
    train.add_argument("--config", required=True, type=file_name, metavar="FILE", help="a file of configs/")
    train.add_argument("--workdir", required=True, type=as_path, metavar="DIR", help="where the run lives")
    train.add_argument(
        "--profile", metavar="START:STOP", help="trace these steps, the last one excluded, into DIR/profile"
    )
    _add_launch_flags(train)

    evaluate = command("evaluate", EVALUATE)
    predict = command("predict", PREDICT)
    export = command("export", EXPORT)
    for added in (evaluate, predict, export):
        trained = added.add_mutually_exclusive_group(required=True)
        trained.add_argument("--workdir", type=as_path, metavar="DIR", help="a run of `train`")
        trained.add_argument("--model", metavar="NAME", help="published weights, as `models` lists them")
        added.add_argument(
            "--config", type=file_name, metavar="FILE", help="instead of the work directory's config.json"
        )
        added.add_argument(
            "--checkpoint", type=as_path, metavar="DIR", help="default: the best by AP, else the latest"
        )
    for added in (evaluate, predict):
        added.add_argument(
            "--output", type=as_path, metavar="DIR", help="default: DIR/COMMAND in the work directory"
        )
    evaluate.add_argument(
        "--backend",
        choices=["pycocotools", "faster"],
        default="pycocotools",
        help="faster: faster-coco-eval, the same numbers in a fifth of the time",
    )
    evaluate.add_argument(
        "--pictures",
        type=whole_number("--pictures", 0),
        default=4,
        metavar="N",
        help="draw the first N pictures with their boxes (4)",
    )
    _add_launch_flags(evaluate)
    predict.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="an image, a video, a folder of them, a pattern in quotes",
    )
    predict.add_argument(
        "--min-score",
        type=share("--min-score"),
        default=0.3,
        metavar="SCORE",
        help="draw boxes from this score on (0.3)",
    )
    export.add_argument("--output", type=as_path, metavar="FILE", required=True, help="what is written")
    for side in ("height", "width"):
        export.add_argument(
            f"--{side}",
            type=whole_number(f"--{side}"),
            metavar=side[0].upper(),
            help="default: the largest bucket's",
        )
    export.add_argument(
        "--batch",
        type=whole_number("--batch"),
        metavar="N",
        help="pictures of a call; default: any number",
    )
    export.add_argument(
        "--platforms", nargs="+", default=["cpu", "cuda", "tpu"], metavar="NAME", help="default: cpu cuda tpu"
    )

    compare = command("compare", COMPARE)
    compare.add_argument(
        "--table", required=True, metavar="NAME", help="1, boxes, ...: configs/table_NAME.py"
    )
    compare.add_argument("--dataset", default="coco", metavar="NAME", help="coco, trees or digits (coco)")
    compare.add_argument(
        "--seeds", type=whole_number("--seeds", 1), default=3, metavar="N", help="runs of each row (3)"
    )
    compare.add_argument("--rows", metavar="NAME,NAME", help="only these rows, e.g. atss_iou,atss_joint")
    compare.add_argument(
        "--workdir", type=as_path, metavar="DIR", help="where the runs live; default: runs/table_NAME_DATASET"
    )

    analyze = command("analyze", ANALYZE)
    analyze.add_argument("--workdir", type=as_path, metavar="DIR", help="a run of `train`")
    analyze.add_argument("--model", metavar="NAME", help="published weights, as `models` lists them")
    analyze.add_argument("more", nargs="*", type=as_path, metavar="DIR", help="more runs, to stand beside it")
    analyze.add_argument(
        "--config", type=file_name, metavar="FILE", help="instead of the work directories' config.json"
    )
    analyze.add_argument(
        "--output", type=as_path, metavar="DIR", help="default: DIR/analyze in the first work directory"
    )
    analyze.add_argument(
        "--only", nargs="+", choices=["correlation", "labels", "distributions"], help="default: all three"
    )
    analyze.add_argument(
        "--boxes",
        nargs="+",
        type=whole_number("--boxes", 0),
        metavar="N",
        help="draw the N-th best detections, from 0 on",
    )

    commands.add_parser(
        "models",
        help="List published weights by name",
        description=MODELS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    compile_ = command("compile", COMPILE)
    compile_.add_argument(
        "--config", required=True, type=file_name, metavar="FILE", help="a file of configs/"
    )
    compile_.add_argument(
        "--topology", default="local", metavar="NAME", help="a TPU slice such as v5e:4x4; default: local"
    )
    compile_.add_argument(
        "--batch",
        type=whole_number("--batch", 1),
        metavar="N",
        help="pictures per chip; default: the chip's share of the config's",
    )
    compile_.add_argument(
        "--find-batch", action="store_true", help="search the largest batch that fits, from --batch or 1 on"
    )
    compile_.add_argument("--size", metavar="HxW", help="of the batches; default: the largest bucket")
    compile_.add_argument("--only", choices=["train", "inference"], help="default: both")
    compile_.add_argument("--json", type=as_path, metavar="FILE", help="write the report here too")

    verify = command("verify", VERIFY)
    verify.add_argument("--dtype", choices=["float64", "float32", "bfloat16"], default="float32")
    verify.add_argument(
        "--detector",
        choices=["gfl", "atss", "fcos", "fcos_tricks", "gfl_r101_dcn", "all"],
        default="gfl",
        help="whose figures, of those in tests/data (gfl)",
    )
    verify.add_argument("--reference", type=local_path, metavar="FILE", help="other figures, of --config")
    verify.add_argument("--config", type=file_name, metavar="FILE", help="of the reference's detector")
    return parser


def _add_launch_flags(command: argparse.ArgumentParser) -> None:
    several = command.add_argument_group("several processes", PROCESSES)
    several.add_argument("--coordinator", metavar="HOST:PORT", help="a free port on process 0's machine")
    several.add_argument("--num-processes", metavar="N", help="how many there are")
    several.add_argument("--process-id", metavar="I", help="which one this is, from 0 on")
    several.add_argument("--distributed", action="store_true", help="let jax find out (Cloud TPU VMs)")
    several.add_argument(
        "--heartbeat-seconds",
        type=whole_number("--heartbeat-seconds", 2),
        default=100,
        metavar="S",
        help="silence of a lost process (100)",
    )
