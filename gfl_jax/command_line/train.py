"""The `train` command: trains a detector."""

import argparse

from gfl_jax.command_line.arguments import add_config, add_launch
from gfl_jax.command_line.setup import config_from_args, processes
from gfl_jax.files import require_writable
from gfl_jax.paths import as_path

TEXT = """\
Trains a detector, or resumes its training if the work directory has checkpoints.

  python main.py train --config=gfl_r50_fpn_1x_coco --workdir=runs/gfl_r50

Ctrl-C and SIGTERM save the state and stop the run, with exit status 130 and 143. In a run of several
processes, all processes stop at the same step, always with status 143. Rerun the same command to resume; the
result is bit-identical (on GPUs with --config.compiler.deterministic=True). An evaluation stops after its
current batch, and starts again when the run resumes.

The work directory gets config.json, categories.json (the classes), data.npz (a record of the data),
lease.json (the run that writes here), checkpoints/ (the latest ones), best/ (the best one by AP),
metrics.jsonl, tensorboard/ and pictures/. It may be in a bucket (gs://BUCKET/...), and so may data, weights
and outputs.

Data, boxes, classes and settings are checked before the first step. A run resumes only with the same data,
from any location and in any order; with other data, the error message says what differs. A checkpoint is
saved before each evaluation.

The log shows the share of time in which the device waited for a batch ("input 3%"). metrics.jsonl and
TensorBoard show how the time since the previous row was spent: time/input, time/step, time/checkpoint,
time/evaluation.

--profile=20:25 writes a trace of steps 20 to 24 to profile/ in the work directory, for TensorBoard (with the
package xprof) and for ui.perfetto.dev."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_config(command)
    command.add_argument("--workdir", required=True, type=as_path, metavar="DIR", help="directory of the run")
    command.add_argument(
        "--profile", metavar="START:STOP", help="trace steps START to STOP - 1 into WORKDIR/profile"
    )
    add_launch(command)


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Runs the command and returns the exit status."""
    with processes(args, stop_together=True):
        from gfl_jax.parallel.agreement import is_first
        from gfl_jax.training.loop import train
        from gfl_jax.training.profile import parse_steps
        from gfl_jax.training.stop import StopRequest

        stop = StopRequest()
        profile_steps = None if args.profile is None else parse_steps(args.profile)
        config = config_from_args(args, overrides)
        if is_first():
            require_writable(args.workdir)
        train(config, args.workdir, stop, profile_steps)
    return stop.status
