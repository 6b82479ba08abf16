"""The command line: all commands, and the exit status.

Each command imports its dependencies only when it runs. This keeps `--help` fast.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from gfl_jax.command_line import (
    analyze,
    compare,
    compile,
    evaluate,
    export,
    inspect,
    models,
    predict,
    train,
    verify,
)
from gfl_jax.command_line.arguments import config_overrides
from gfl_jax.errors import exit_status

COMMANDS = {
    "inspect": inspect,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "compare": compare,
    "analyze": analyze,
    "models": models,
    "compile": compile,
    "verify": verify,
}

CONFIG_HELP = """\
To change fields of the config, give their names with dots: --config.optimizer.learning_rate=0.02
--config.loader.batch_size=32 --config.crops=None. The page "Config fields" of the documentation lists all
fields; they are in gfl_jax/config.py and, for the four axes of a detector, in gfl_jax/axes/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status.

    0: success. 1: a check failed, some inputs or runs failed, or nobody reads the output. 2: bad input.
    3: another process of the run was lost. 130: Ctrl-C. 143: SIGTERM; a training run first saves its state.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("gfl_jax").setLevel(logging.INFO)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises the errors that it logs
    logging.captureWarnings(True)

    def command() -> int:
        parser = make_parser()
        args, rest = parser.parse_known_args(arguments)
        return COMMANDS[args.command].run(args, config_overrides(rest, parser))

    try:
        return exit_status(command)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the whole command line. Its result has the name of the command as `command`."""
    installed = sys.argv[0].endswith("gfl-jax")
    parser = argparse.ArgumentParser(
        prog="gfl-jax" if installed else "main.py",
        description="Generalized Focal Loss detectors in JAX.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        text = module.TEXT if module is models else f"{module.TEXT}\n\n{CONFIG_HELP}"
        command = commands.add_parser(
            name,
            help=" ".join(module.TEXT.split()).split(". ")[0].rstrip("."),
            description=text.replace("python main.py", "gfl-jax") if installed else text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_flags(command)
    return parser
