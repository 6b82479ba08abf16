"""The demo: fetches aerial images of trees, draws the detections of a trained GFL, trains another one.

Prints and runs the commands (about 10 minutes on 2 cores), and ends with a summary. If it is stopped,
it resumes when it is run again.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

from gfl_jax.errors import exit_status  # noqa: E402
from gfl_jax.files import read_file, require_writable  # noqa: E402

FIRST = Path("runs/gfl_trees_model")  # results of the detector that comes with the package
WORKDIR = Path("runs/gfl_trees")
CONFIG = "configs/gfl_trees.py"
# On CPUs, two devices of one core each train 1.4 times as fast as one device of two cores. All these counts
# divide the batch.
DEVICES = next(count for count in (8, 4, 2, 1) if count <= (os.cpu_count() or 1))
FLAGS = f"--xla_force_host_platform_device_count={DEVICES}"
SPLITS = {"validation": "another image of the same region, held out", "far": "another forest, far away"}


def main() -> int:
    """Runs all commands. Returns the status of the first that fails."""
    return exit_status(run_all)


def run_all() -> int:
    """Runs the commands and prints the summary."""
    start = time.monotonic()
    for folder in (ROOT / "data", ROOT / FIRST, ROOT / WORKDIR):
        require_writable(folder)
    commands = [
        ["scripts/prepare_dataset.py", "trees"],
        ["main.py", "evaluate", "--model=gfl_trees", f"--output={FIRST}"],
        ["main.py", "train", f"--config={CONFIG}", f"--workdir={WORKDIR}"],
        *(
            ["main.py", "evaluate", f"--workdir={WORKDIR}", f"--config.dataset.eval_split={split}"]
            for split in SPLITS
        ),
    ]
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()}
    print(f"\n$ export XLA_FLAGS={shlex.quote(environment['XLA_FLAGS'])}")
    for command in commands:
        print("\n$ python " + shlex.join(command), flush=True)
        status = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment).returncode
        if status:
            return status
    print(f"\nGFL on aerial images of trees, {(time.monotonic() - start) / 60:.1f} minutes in total")
    for split, description in SPLITS.items():
        metrics = json.loads(read_file(ROOT / WORKDIR / "evaluate" / split / "metrics.json"))
        numbers = "  ".join(f"{name} {100 * metrics[name]:.1f}" for name in ("AP", "AP50", "AP75"))
        print(f"  {split:<11} {numbers}   ({description})")
    print(f"  images      {WORKDIR}/evaluate/*/*.png, {WORKDIR}/curves.png")
    print(f"  checkpoint  {WORKDIR}/best")
    print("Next, analyze the detector, or detect trees in your own images:")
    print(f"  python main.py analyze --workdir={WORKDIR}")
    print(f"  python main.py predict --workdir={WORKDIR} PHOTO.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
