"""A run that kills itself at a batch, so that no test has to hit a moment from outside."""

# For the file of a config: the process ends before batch $KILL_BEFORE_BATCH, of training and evaluations.
KILLS_ITSELF = """
import os, signal
from gfl_jax.data.loader import Batches

original, taken = Batches.__next__, []

def killing_next(batches):
    taken.append(1)
    if len(taken) == int(os.environ.get("KILL_BEFORE_BATCH", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(batches)

Batches.__next__ = killing_next
"""
