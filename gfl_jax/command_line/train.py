"""Training on the command line."""

import argparse

from gfl_jax.command_line.arguments import add_launch, file_name
from gfl_jax.command_line.setup import config_of, processes
from gfl_jax.files import require_writable
from gfl_jax.paths import as_path

TEXT = """\
Trains a detector, and goes on where it stopped if the work directory holds checkpoints.
Ctrl-C and SIGTERM save the state and stop, with exit status 130 and 143, in all processes of the run at
the same step (then always with 143). Rerun the same command to resume; the result is bit-identical (on GPUs
with --config.compiler.deterministic=True). An evaluation stops after its batch, and begins again at the
next start.

  python main.py train --config=gfl_r50_fpn_1x_coco --workdir=runs/gfl_r50

The work directory may be in a bucket (gs://BUCKET/...), as data, weights and outputs may be. It gets
config.json, categories.json (the classes), data.npz (what the data were), lease.json (which run writes
here), checkpoints/ (the last ones), best/ (the best by AP), metrics.jsonl, tensorboard/ and pictures/. A
run goes on with the same data wherever they lie and in whatever order they are listed; other data are
refused with what differs. Data, boxes, classes and settings are checked before the first step, and a
checkpoint is saved before each evaluation.

The log says which share of the time the device was idle for want of a batch ("input 3%"), and
metrics.jsonl and TensorBoard how the time since the row before divides: time/input, time/step,
time/checkpoint, time/evaluation. --profile=20:25 writes a trace of the steps 20 to 24 into
profile/, for TensorBoard (with the package xprof) and for ui.perfetto.dev."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    command.add_argument("--config", required=True, type=file_name, metavar="FILE", help="a file of configs/")
    command.add_argument("--workdir", required=True, type=as_path, metavar="DIR", help="where the run lives")
    command.add_argument(
        "--profile", metavar="START:STOP", help="trace these steps, the last one excluded, into DIR/profile"
    )
    add_launch(command)


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Does what the command says; returns the exit status."""
    with processes(args, stop_together=True):
        from gfl_jax.parallel.agreement import is_first
        from gfl_jax.training.loop import train
        from gfl_jax.training.profile import parse_steps
        from gfl_jax.training.stop import StopRequest

        stop = StopRequest()
        profile_steps = None if args.profile is None else parse_steps(args.profile)
        config = config_of(args, overrides)
        if is_first():
            require_writable(args.workdir)
        train(config, args.workdir, stop, profile_steps)
    return stop.status
