"""Ports for the processes of tests."""

import contextlib
import random
import socket


def free_port() -> int:
    """A port below those that the system hands out by itself, so that nobody gets it in between."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
