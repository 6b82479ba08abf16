"""The command line: `main` puts it together, and each command has a file with its text, flags and work."""

import os

# Set before jax is imported: what its C++ parts log below "fatal" is in the exceptions too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
