"""Flags: their types, those that several commands have, and the fields of the config."""

import argparse
import math
import os
from collections.abc import Callable, Sequence

from gfl_jax.errors import UserError
from gfl_jax.paths import as_path


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


def add_trained(command: argparse.ArgumentParser) -> None:
    """The flags that name a trained detector."""
    trained = command.add_mutually_exclusive_group(required=True)
    trained.add_argument("--workdir", type=as_path, metavar="DIR", help="a run of `train`")
    trained.add_argument("--model", metavar="NAME", help="published weights, as `models` lists them")
    command.add_argument(
        "--config", type=file_name, metavar="FILE", help="instead of the work directory's config.json"
    )
    command.add_argument(
        "--checkpoint", type=as_path, metavar="DIR", help="default: the best by AP, else the latest"
    )


def add_output(command: argparse.ArgumentParser) -> None:
    """The folder of what a command makes of a trained detector."""
    command.add_argument(
        "--output", type=as_path, metavar="DIR", help="default: DIR/COMMAND in the work directory"
    )


PROCESSES = """\
A run on several hosts is this command on each of them. Under Slurm (srun), Open MPI and on TPUs of GKE the
processes find one another. Elsewhere, as in other Jobs of Kubernetes, each gets the first three of these,
or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. If one is lost, the others name it and
end with status 3; the same commands go on from the last checkpoint. If one meets bad input, all end with
its line and status 2."""


def add_launch(command: argparse.ArgumentParser) -> None:
    """The flags that say which processes a run has."""
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
