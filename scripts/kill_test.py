"""Kills a training run repeatedly, and compares its result with that of an undisturbed run.

    python scripts/prepare_dataset.py trees
    python scripts/kill_test.py --workdir=runs/kill_test
    python scripts/kill_test.py --workdir=runs/kill_test --kills=20 --terms=10 --processes=2 --devices=2

Every second SIGKILL hits the run while it saves. With several processes (all on this machine), a kill hits
all of them or a single one, and the others must notice the loss. SIGTERM, to all or to one, must end all of
them within 20 s with a checkpoint and the status 143. The exit status is 1 if any bit of the last checkpoint
or of metrics.jsonl differs. It is 2 if a process ends in another way, or a readable checkpoint is lost.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

from gfl_jax.errors import UserError, exit_status  # noqa: E402
from gfl_jax.training.checkpoint import read_item, steps_in  # noqa: E402
from gfl_jax.training.checksums import find_damage  # noqa: E402
from gfl_jax.training.log import TIME_COLUMNS  # noqa: E402
from gfl_jax.training.metrics_file import Row, read_rows  # noqa: E402
from gfl_jax.training.stop import STATUS  # noqa: E402

Processes = list[subprocess.Popen[bytes]]

LOST = 3  # the exit status of a process that lost another one
PATIENCE = 600.0  # seconds to wait for anything that must happen
GRACE = 20.0  # seconds from SIGTERM to the end of all processes


class Launch(NamedTuple):
    """The settings that start the processes of a run."""

    arguments: tuple[str, ...]  # of `main.py train`, without --workdir
    workdir: Path
    processes: int
    devices: int  # fake CPU devices of each process
    heartbeat: int  # seconds


class Kill(NamedTuple):
    """One kill. It comes after `step` steps of the run, at a random moment or in the next save."""

    step: int
    in_save: bool
    delay: float  # seconds after that
    victim: int | None  # None: all processes
    sent: signal.Signals = signal.SIGKILL


class Killed(NamedTuple):
    """The effect of a kill."""

    kill: Kill
    reached: int  # the last step that was logged
    unfinished: bool  # whether a save was running
    newest: int | None  # the newest checkpoint that can be read
    seconds: float  # until all other processes ended by themselves


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 1 after a failed check, 2 after bad input."""
    args, rest = _parser().parse_known_args(arguments)
    return exit_status(lambda: run(args, rest))


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs both runs. Prints the kills and whether the results are equal."""
    if args.workdir.exists():
        raise UserError(f"--workdir={args.workdir}: already exists; name a new folder, or delete it")
    settings = [
        f"--config={args.config}",
        f"--config.schedule.steps={args.steps}",
        "--config.run.log_every=1",
    ]
    settings += [f"--config.run.checkpoint_every={args.checkpoint_every}"]
    settings += [f"--config.loader.eval_batch_size={args.processes * args.devices}", *rest]
    whole = Launch(tuple(settings), args.workdir / "whole", args.processes, args.devices, args.heartbeat)
    killed = whole._replace(workdir=args.workdir / "killed")
    args.workdir.mkdir(parents=True)
    console = Console()
    with console.status("the undisturbed run"):
        finish(whole, start(whole))
    rng = np.random.default_rng(args.seed)
    done: list[Killed] = []
    plan = plan_kills(rng, args.kills, args.steps, args.processes, args.terms)
    for number, kill in enumerate(plan, 1):
        with console.status(f"kill {number} of {len(plan)}, after step {kill.step}"):
            done.append(carry_out(killed, kill, done[-1].newest if done else None))
    with console.status("the rest of the killed run"):
        finish(killed, start(killed))
    console.print(_table(done))
    differences = differing_arrays(whole.workdir, killed.workdir, args.steps)
    differences += differing_rows(whole.workdir, killed.workdir)
    saves = sum(killed.unfinished and killed.kill.sent == signal.SIGKILL for killed in done)
    print(f"{args.kills} kills, {saves} of them in the middle of a save, and {args.terms} SIGTERMs")
    for difference in differences:
        print(f"differs: {difference}", file=sys.stderr)
    print("the runs differ" if differences else f"after {args.steps} steps all bits of both runs are equal")
    return int(bool(differences))


def plan_kills(
    rng: np.random.Generator, count: int, steps: int, processes: int, terms: int = 0
) -> list[Kill]:
    """Plans kills at random moments of a run, sorted by step.

    Every second kill hits a save. The victims take turns: all processes, then each single one. The plan
    also has `terms` SIGTERMs at any moment.
    """
    moments = np.sort(rng.integers(0, max(steps * 4 // 5, 1), count))
    victims = [None, *range(processes)] if processes > 1 else [None]
    kills = [
        Kill(int(step), i % 2 == 1, float(rng.uniform(0, 0.05 if i % 2 else 2)), victims[i % len(victims)])
        for i, step in enumerate(moments)
    ]
    for i, step in enumerate(rng.integers(0, max(steps * 4 // 5, 1), terms)):
        victim = victims[i % len(victims)]
        kills.append(Kill(int(step), False, float(rng.uniform(0, 2)), victim, signal.SIGTERM))
    return sorted(kills, key=lambda kill: kill.step)


def start(launch: Launch) -> Processes:
    """Starts the processes of a run, which resumes from its latest checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={launch.devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": _cache(launch)}
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        "train",
        f"--workdir={launch.workdir}",
        *launch.arguments,
    ]
    processes = []
    launch.workdir.mkdir(parents=True, exist_ok=True)
    for index in range(launch.processes):
        several = [
            f"--coordinator=127.0.0.1:{port}",
            f"--num-processes={launch.processes}",
            f"--process-id={index}",
            f"--heartbeat-seconds={launch.heartbeat}",
        ]
        with _output(launch, index).open("ab") as output:
            processes.append(
                subprocess.Popen(
                    command + (several if launch.processes > 1 else []),
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def finish(launch: Launch, processes: Processes) -> None:
    """Waits for the end of a run.

    Raises:
      UserError: a process failed.
    """
    try:
        statuses = [process.wait(PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(statuses):
        raise UserError(f"a process ended with a status of {statuses}; see {_output(launch, 0)}")


def carry_out(launch: Launch, kill: Kill, newest: int | None) -> Killed:
    """Starts a run, kills it, and waits for the processes that were not killed to end by themselves.

    Raises:
      UserError: the run failed, a process did not end, or no checkpoint is left.
    """
    before = _written(launch.workdir)
    processes = start(launch)
    try:
        # If a process is killed before all have started, the others wait for it for five minutes.
        _wait_for(lambda: _written(launch.workdir) > before, processes, launch)
        _wait_for(lambda: _reached(launch.workdir) >= kill.step, processes, launch)
        if kill.in_save:
            _wait_for(lambda: _is_saving(launch.workdir), processes, launch)
        time.sleep(kill.delay)
        victims = processes if kill.victim is None else [processes[kill.victim]]
        for process in victims:
            process.send_signal(kill.sent)
        begin, unfinished = time.monotonic(), _is_saving(launch.workdir)
        statuses = [process.wait(PATIENCE) for process in processes]
        seconds = time.monotonic() - begin
    finally:
        for process in processes:
            process.kill()
    expected = [-signal.SIGKILL if process in victims else LOST for process in processes]
    if kill.sent == signal.SIGTERM:
        expected = [STATUS[kill.sent]] * len(processes)
        if seconds > GRACE:
            raise UserError(f"SIGTERM took {seconds:.1f} s to the end; see {_output(launch, 0)}")
    if statuses != expected:
        raise UserError(f"the processes ended with {statuses}, not {expected}; see {_output(launch, 0)}")
    readable = readable_steps(launch.workdir)
    if newest is not None and (not readable or readable[-1] < newest):
        raise UserError(f"{launch.workdir}: the checkpoint of step {newest} can no longer be read")
    return Killed(
        kill, _reached(launch.workdir), unfinished, readable[-1] if readable else None, round(seconds, 1)
    )


def readable_steps(workdir: Path) -> list[int]:
    """Returns the steps with an undamaged checkpoint, in order."""
    folder = workdir / "checkpoints"
    return [step for step in steps_in(folder) if find_damage(folder / str(step)) is None]


def differing_arrays(one: Path, other: Path, step: int) -> list[str]:
    """Lists the arrays in which the checkpoints of two runs at a step differ."""
    differences = []
    for item in ("variables", "training"):
        arrays = [
            jax.tree_util.tree_leaves_with_path(read_item(workdir / "checkpoints" / str(step), item))
            for workdir in (one, other)
        ]
        for (path, a), (_, b) in zip(*arrays, strict=True):
            if not np.array_equal(a, b):
                differences.append(item + jax.tree_util.keystr(path))
    return differences


def differing_rows(one: Path, other: Path) -> list[str]:
    """Lists the rows of metrics.jsonl in which two runs differ, without times."""
    rows = [_numbers(workdir / "metrics.jsonl") for workdir in (one, other)]
    differences = [f"metrics.jsonl: {a} against {b}" for a, b in zip(*rows, strict=False) if a != b]
    if len(rows[0]) != len(rows[1]):
        differences.append(f"metrics.jsonl: {len(rows[0])} rows against {len(rows[1])}")
    return differences


def _numbers(file: Path) -> list[Row]:
    return [{name: row[name] for name in row if name not in TIME_COLUMNS} for row in read_rows(file)]


def _wait_for(condition: Callable[[], bool], processes: Processes, launch: Launch) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if any(process.poll() is not None for process in processes) or time.monotonic() > end:
            raise UserError(f"the run ended before it was killed; see {_output(launch, 0)}, or raise --steps")
        time.sleep(0.001)


def _reached(workdir: Path) -> int:
    rows = read_rows(workdir / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def _written(workdir: Path) -> int:
    """Returns the time of the last write to metrics.jsonl. A run writes it once before its first step."""
    file = workdir / "metrics.jsonl"
    return file.stat().st_mtime_ns if file.exists() else 0


def _is_saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def _cache(launch: Launch) -> str:
    return os.environ.get("JAX_COMPILATION_CACHE_DIR", str(launch.workdir.parent / "compiled"))


def _output(launch: Launch, index: int) -> Path:
    return launch.workdir.with_name(f"{launch.workdir.name}_{index}.txt")


def _table(done: list[Killed]) -> Table:
    table = Table(
        "after step", "signal", "aimed at", "sent to", "reached", "in a save", "newest saved", "others ended"
    )
    for killed in done:
        kill = killed.kill
        table.add_row(
            str(kill.step),
            kill.sent.name,
            "a save" if kill.in_save else "any moment",
            "all" if kill.victim is None else f"process {kill.victim}",
            str(killed.reached),
            "yes" if killed.unfinished else "no",
            str(killed.newest),
            "" if kill.victim is None and kill.sent == signal.SIGKILL else f"after {killed.seconds} s",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    file = str(ROOT / "configs" / "gfl_trees.py")
    text = "config file (default configs/gfl_trees.py)"
    parser.add_argument("--config", default=file, metavar="FILE", help=text)
    text = "new folder for the work directories of both runs"
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help=text)
    for name, default, text in (
        ("kills", 20, "number of SIGKILLs"),
        ("terms", 0, "number of SIGTERMs"),
        ("processes", 1, "number of processes of the run, all on this machine"),
        ("devices", 1, "number of fake CPU devices of each process"),
        ("steps", 60, "number of steps of the run"),
        ("checkpoint-every", 3, "steps between checkpoints"),
        ("heartbeat", 10, "seconds without a heartbeat before a process counts as lost"),
        ("seed", 0, "random seed of the moments of the kills"),
    ):
        text = f"{text} (default {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
