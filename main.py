"""Runs the command line of gfl_jax: `python main.py --help`."""

import sys

from gfl_jax.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
