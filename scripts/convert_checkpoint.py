r"""Converts weights from PyTorch and to PyTorch.

python scripts/convert_checkpoint.py to-jax gfl_r50.pth \
    --config=configs/gfl_r50_fpn_1x_coco.py --output=runs/gfl_r50
python scripts/convert_checkpoint.py to-torch --workdir=runs/gfl_r50 --output=gfl_r50.safetensors
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax.traverse_util import flatten_dict, unflatten_dict  # noqa: E402
from rich.console import Console  # noqa: E402

from gfl_jax.command_line.arguments import config_overrides, file_name  # noqa: E402
from gfl_jax.config import Config  # noqa: E402
from gfl_jax.configuration.config_files import config_from_json, load_config  # noqa: E402
from gfl_jax.configuration.overrides import parse_overrides  # noqa: E402
from gfl_jax.data.categories import Categories, write_categories  # noqa: E402
from gfl_jax.data.coco_categories import COCO_CATEGORY_IDS, COCO_CATEGORY_NAMES  # noqa: E402
from gfl_jax.errors import UserError, exit_status  # noqa: E402
from gfl_jax.files import require_writable, require_writable_file  # noqa: E402
from gfl_jax.interop.foreign import (  # noqa: E402
    account_table,
    detector_shapes,
    difference_table,
    read_matched,
)
from gfl_jax.interop.state_dicts import check_suffix, write_state_dict  # noqa: E402
from gfl_jax.interop.torch_names import whole_state_dict  # noqa: E402
from gfl_jax.paths import as_path  # noqa: E402
from gfl_jax.training.checkpoint import Checkpoints, claim_workdir, load_variables, steps_in  # noqa: E402
from gfl_jax.training.state import TrainState  # noqa: E402

TO_JAX = """\
Reads FILE (.safetensors or .pth) without PyTorch, and writes a work directory for
`main.py evaluate`, `main.py predict` and --config.init_from.

A detector of mmdetection 1.x to 3.x or of the official GFL repository must fit the config entry by
entry. With --backbone only the backbone is converted: that of such a detector, or one of torchvision,
mmpretrain or detectron2. Fields of the config are set with dots: --config.detector.num_classes=20

The file does not contain the names of its classes. 80 classes get COCO's names; other classes are
named with --classes, in their order. Evaluation matches classes by name."""

TO_TORCH = """\
Writes the state dict of a trained detector as FILE (.safetensors or .pth). All names
and shapes are mmdetection's, and the file loads there with strict=True."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 2 after bad input."""
    return exit_status(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    overrides = config_overrides(rest, parser)
    if args.command == "to-jax":
        config = parse_overrides(load_config(args.config), overrides)
        classes = None if args.classes is None else tuple(args.classes.split(","))
        to_jax(args.file, config, args.output, args.backbone, classes)
    else:
        file = args.workdir / "config.json"
        config = load_config(args.config) if args.config else config_from_json(file)
        to_torch(args.checkpoint or args.workdir, parse_overrides(config, overrides), args.output)
    return 0


def to_jax(
    file: Path,
    config: Config,
    output: Path,
    backbone_only: bool = False,
    classes: tuple[str, ...] | None = None,
) -> None:
    """Writes the weights of a file as the best checkpoint of a new work directory.

    Args:
      file: a state dict.
      config: the config of the detector.
      output: the work directory. For a backbone it gets only the checkpoint.
      backbone_only: convert the backbone, and ignore the rest of the file.
      classes: the names of the classes by label; None: COCO's names for 80 classes, else numbers.

    Raises:
      UserError: the file cannot be read or does not fit, or the directory has checkpoints. Nothing is
        written then.
    """
    require_writable(output)
    if any(steps_in(output / folder) for folder in ("best", "checkpoints")):
        raise UserError(f"--output={output}: has checkpoints already; name another directory")
    categories = _categories(config.detector.num_classes, classes)
    shapes = detector_shapes(config.detector)
    if backbone_only:
        shapes = {collection: {"backbone": tree["backbone"]} for collection, tree in shapes.items()}
    matched = read_matched(file, shapes, config.detector)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(account_table(matched))
    if matched.missing or matched.other_shape or (matched.left_over and not backbone_only):
        console.print(difference_table(matched))
        advice = "give its --config" + ("" if backbone_only else ", or --backbone for a backbone alone")
        raise UserError(
            f"{file}: {len(matched.differences)} entries do not fit config {config.name}; {advice}"
        )
    wanted = flatten_dict(shapes, sep="/")
    arrays = {path: jnp.asarray(x, wanted[path].dtype) for path, x in matched.arrays.items()}
    if not backbone_only:
        claim_workdir(output, config)
        write_categories(output, categories)
    state = TrainState(step=jnp.zeros((), jnp.int32), opt_state=(), **unflatten_dict(arrays, sep="/"))
    with contextlib.closing(Checkpoints(output, keep=1)) as checkpoints:
        checkpoints.save_best(state, average_precision=-1.0)  # not measured: any run beats it
    print(f"{len(arrays)} arrays: {output}")


def to_torch(checkpoint: Path, config: Config, file: Path) -> None:
    """Writes a checkpoint as a state dict for mmdetection.

    Raises:
      UserError: there is no checkpoint, it belongs to another config, or the file cannot be written.
    """
    check_suffix(file)
    require_writable_file(file)
    variables = load_variables(checkpoint)
    found, wanted = _shapes(variables), _shapes(detector_shapes(config.detector))
    differences = sorted(path for path in found | wanted if found.get(path) != wanted.get(path))
    if differences:
        first = differences[0]
        raise UserError(
            f"{checkpoint}: does not fit config {config.name}: {len(differences)} arrays differ, the first "
            f"is {first} (found {found.get(first, 'none')}, expected {wanted.get(first, 'none')}); "
            "give its --config"
        )
    state_dict = whole_state_dict(jax.tree.map(np.asarray, variables), config.detector)
    write_state_dict(file, state_dict)
    print(f"{len(state_dict)} entries: {file}")


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(x.shape) for path, x in flatten_dict(variables, sep="/").items()}


def _categories(count: int, names: tuple[str, ...] | None) -> Categories:
    """Returns the named classes; without names COCO's for 80 classes, else numbered ones."""
    if names is None and count == len(COCO_CATEGORY_NAMES):
        return Categories(COCO_CATEGORY_NAMES, COCO_CATEGORY_IDS)
    names = names or tuple(f"class {i}" for i in range(1, count + 1))
    if len(names) != count or len(set(names)) < count:
        raise UserError(f"--classes={','.join(names)}: must be {count} different names, separated by commas")
    return Categories(names, tuple(range(1, count + 1)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("to-jax", TO_JAX), ("to-torch", TO_TORCH)):
        commands.add_parser(
            name,
            help=text.split("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    to_jax, to_torch = commands.choices["to-jax"], commands.choices["to-torch"]
    to_jax.add_argument("file", type=as_path, metavar="FILE", help="a .safetensors or .pth file")
    to_jax.add_argument("--config", required=True, type=file_name, metavar="FILE", help="a config file")
    to_jax.add_argument("--output", required=True, type=as_path, metavar="DIR", help="a new work directory")
    to_jax.add_argument("--backbone", action="store_true", help="convert only the backbone")
    to_jax.add_argument("--classes", metavar="NAME,NAME", help="names of the classes, by label")
    to_torch.add_argument(
        "--workdir", required=True, type=as_path, metavar="DIR", help="the work directory of a run"
    )
    to_torch.add_argument(
        "--config", type=file_name, metavar="FILE", help="config file (default: that of the work directory)"
    )
    to_torch.add_argument(
        "--checkpoint",
        type=as_path,
        metavar="DIR",
        help="checkpoint to convert (default: the best by AP, else the latest)",
    )
    to_torch.add_argument(
        "--output", required=True, type=as_path, metavar="FILE", help="a .safetensors or .pth file to write"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
