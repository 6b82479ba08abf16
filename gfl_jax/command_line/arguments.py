"""Types of flags, flags that several commands share, and the --config.NAME=VALUE flags."""

import argparse
import math
import os
from collections.abc import Callable, Sequence

from gfl_jax.errors import UserError
from gfl_jax.paths import as_path


def file_name(text: str) -> str:
    """The type of a flag that names a config: expands `~` and keeps arguments, as in FILE:NAME=VALUE."""
    return os.path.expanduser(text)


def whole_number(flag: str, least: int | None = None) -> Callable[[str], int]:
    """Makes the type of a flag: a whole number, at least `least` if given. Other values raise UserError."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise UserError(f"{flag}={text}: must be a whole number") from error
        if least is not None and number < least:
            raise UserError(f"{flag}={text}: must be at least {least}")
        return number

    return parse


def fraction(flag: str) -> Callable[[str], float]:
    """Makes the type of a flag: a number from 0 to 1. Other values raise UserError."""

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
    """Parses --config.NAME=VALUE and --config.NAME VALUE to a dictionary from NAME to VALUE."""
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


def add_config(command: argparse.ArgumentParser) -> None:
    """Adds the flag that names a config."""
    command.add_argument(
        "--config",
        required=True,
        type=file_name,
        metavar="FILE",
        help="config: a file, or a name in configs/",
    )


def add_trained(command: argparse.ArgumentParser) -> None:
    """Adds the flags that name a trained detector."""
    trained = command.add_mutually_exclusive_group(required=True)
    trained.add_argument("--workdir", type=as_path, metavar="DIR", help="work directory of `train`")
    trained.add_argument("--model", metavar="NAME", help="published weights, listed by `models`")
    command.add_argument(
        "--config",
        type=file_name,
        metavar="FILE",
        help="config to use instead of the work directory's config.json",
    )
    command.add_argument(
        "--checkpoint",
        type=as_path,
        metavar="DIR",
        help="checkpoint to load (default the best by AP, else the latest)",
    )


def add_output(command: argparse.ArgumentParser) -> None:
    """Adds the flag that names the output directory of a command."""
    command.add_argument(
        "--output",
        type=as_path,
        metavar="DIR",
        help="output directory (default WORKDIR/COMMAND, or runs/NAME/COMMAND with --model)",
    )


PROCESSES = """\
To use several hosts, run this command on each of them. Under Slurm (srun), under Open MPI and on TPUs of
GKE, the processes find each other. Elsewhere, for example in other Kubernetes Jobs, give each process the
first three of these flags, or the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID. A flag overrides its environment variable.

If a process is lost, the others print which one and exit with status 3. Rerun the same commands; training
resumes from the last checkpoint. If a process gets bad input, all processes print its error message and
exit with status 2."""


def add_launch(command: argparse.ArgumentParser) -> None:
    """Adds the flags for a run of several processes."""
    several = command.add_argument_group("several processes", PROCESSES)
    several.add_argument("--coordinator", metavar="HOST:PORT", help="host of process 0 and a free port on it")
    several.add_argument("--num-processes", metavar="N", help="number of processes")
    several.add_argument("--process-id", metavar="I", help="number of this process, from 0")
    several.add_argument(
        "--distributed", action="store_true", help="let jax detect the processes (Cloud TPU VMs)"
    )
    several.add_argument(
        "--heartbeat-seconds",
        type=whole_number("--heartbeat-seconds", 2),
        default=100,
        metavar="S",
        help="seconds without a heartbeat before a process counts as lost (default 100)",
    )
