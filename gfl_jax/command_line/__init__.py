"""The command line. Each command has a file with its help text, flags and code; `main` combines them."""

import os

# Must be set before jax is imported. Hides C++ log messages below "fatal": the exceptions repeat them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
