"""gfl_jax on the command line: `python main.py --help`."""

import os
import sys

# Set before jax is imported: what its C++ parts log below "fatal" is in the exceptions too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from gfl_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
