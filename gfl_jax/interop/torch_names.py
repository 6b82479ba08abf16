"""Converts between mmdetection's PyTorch state dicts and the variables here: names and layouts.

Each entry corresponds to one variable. For example, 'backbone.layer2.0.conv1.weight' (out, in, h, w) is
params/backbone/layer2_0/conv1/kernel (h, w, in, out).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gfl_jax.axes.box_representation import bins
from gfl_jax.config import Detector
from gfl_jax.errors import UserError

# Patterns in our path, and their replacements in mmdetection's name. Applied in this order.
MODULES = (
    (r"^backbone/layer(\d+)_(\d+)/", r"backbone.layer\1.\2."),
    (r"downsample_conv/", r"downsample.0."),
    (r"downsample_bn/", r"downsample.1."),
    (r"^pyramid/(\w+)_(\d+)/", r"neck.\1.\2.conv."),
    (r"^head/class_tower_(\d+)_gn/", r"bbox_head.cls_convs.\1.gn."),
    (r"^head/class_tower_(\d+)/", r"bbox_head.cls_convs.\1.conv."),
    (r"^head/box_tower_(\d+)_gn/", r"bbox_head.reg_convs.\1.gn."),
    (r"^head/box_tower_(\d+)/", r"bbox_head.reg_convs.\1.conv."),
    (r"^head/class_logits/", r"bbox_head.PREFIX_cls."),
    (r"^head/box/", r"bbox_head.PREFIX_reg."),
    (r"^head/quality/", r"bbox_head.PREFIX_centerness."),
    (r"^head/scale_(\d+)$", r"bbox_head.scales.\1.scale"),
    (r"^head/(\w+?)_(\d+)/", r"bbox_head.\1.\2."),  # other modules of a head
)
LEAVES = (
    (r"(kernel|scale)$", "weight"),
    (r"mean$", "running_mean"),
    (r"var$", "running_var"),
)
# Entries of mmdetection that are not learned.
CONSTANTS = re.compile(r"num_batches_tracked$|integral\.project$|^data_preprocessor\.")

# Permutations of the axes of a kernel: (h, w, in, out) to (out, in, h, w), and back.
TO_TORCH, FROM_TORCH = (3, 2, 0, 1), (2, 3, 1, 0)


def head_prefix(detector: Detector) -> str:
    """The prefix in the names of the last convolutions of mmdetection's head of this kind."""
    if detector.assigner.kind == "fcos":
        return "conv"
    return "gfl" if detector.box.kind == "general" else "atss"


def torch_name(path: str, detector: Detector) -> str:
    """The name in a state dict for our path, such as 'head/class_logits/kernel'."""
    name = path
    for pattern, replacement in MODULES:
        name = re.sub(pattern, replacement, name)
    if not name.startswith("bbox_head.scales."):
        for pattern, replacement in LEAVES:
            name = re.sub(pattern, replacement, name)
    return name.replace("/", ".").replace("PREFIX", head_prefix(detector))


def to_torch(collection: Mapping[str, Any], detector: Detector) -> dict[str, np.ndarray]:
    """Converts a collection (params, their gradients, or batch_stats) to PyTorch's names and layouts."""
    flat = flatten_dict(collection, sep="/")
    return {
        torch_name(path, detector): _transposed(np.asarray(value), TO_TORCH) for path, value in flat.items()
    }


def whole_state_dict(variables: Mapping[str, Any], detector: Detector) -> dict[str, np.ndarray]:
    """All entries of mmdetection's state dict, including those that are not learned, sorted by name.

    Args:
      variables: {"params": ..., "batch_stats": ...} of a whole detector.
      detector: the detector that the variables belong to.
    """
    entries = to_torch(variables["params"], detector) | to_torch(variables["batch_stats"], detector)
    for name in [name for name in entries if name.endswith(".running_var")]:
        entries[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    if detector.box.kind == "general":
        entries["bbox_head.integral.project"] = np.asarray(bins(detector.box), np.float32)
    return dict(sorted(entries.items()))


class Difference(NamedTuple):
    """An entry that does not fit. Shapes are in PyTorch's layout."""

    name: str
    found: tuple[int, ...] | None  # None: missing in the state dict
    wanted: tuple[int, ...] | None  # None: not in the detector


class Matched(NamedTuple):
    """The result for every entry of a state dict: used, not learned, or different."""

    arrays: dict[str, np.ndarray]  # our path, with the collection, to the array in our layout
    constants: list[str]  # entries that are not learned
    differences: list[Difference]

    @property
    def missing(self) -> list[Difference]:
        """Entries that are not in the state dict."""
        return [entry for entry in self.differences if entry.found is None]

    @property
    def left_over(self) -> list[Difference]:
        """Entries that are not in the detector."""
        return [entry for entry in self.differences if entry.wanted is None]

    @property
    def other_shape(self) -> list[Difference]:
        """Entries whose shapes in the state dict and in the detector differ."""
        return [entry for entry in self.differences if None not in entry]


def match_entries(
    state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any], detector: Detector
) -> Matched:
    """Matches the entries of a state dict with variables.

    Args:
      state_dict: mmdetection's names to arrays in PyTorch's layout.
      variables: {"params": ..., "batch_stats": ...} of arrays or of their shapes, or parts of them.
      detector: the detector that the variables belong to.
    """
    flat = flatten_dict(variables, sep="/")
    paths = {torch_name(path.split("/", 1)[1], detector): path for path in flat}
    arrays, differences = dict[str, np.ndarray](), list[Difference]()
    for name, path in paths.items():
        shape = tuple(flat[path].shape)
        wanted = tuple(shape[i] for i in TO_TORCH) if len(shape) == 4 else shape
        found = tuple(np.shape(state_dict[name])) if name in state_dict else None
        if found == wanted:
            arrays[path] = _transposed(np.asarray(state_dict[name]), FROM_TORCH)
        else:
            differences.append(Difference(name, found, wanted))
    others = [name for name in state_dict if name not in paths]
    constants = [name for name in others if CONSTANTS.search(name)]
    left_over = [Difference(n, tuple(np.shape(state_dict[n])), None) for n in others if n not in constants]
    return Matched(arrays, constants, differences + left_over)


def from_torch(
    state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any], detector: Detector
) -> dict[str, Any]:
    """Converts a state dict to variables.

    Args:
      state_dict: names to arrays in PyTorch's layout; every entry must belong to the detector.
      variables: {"params": ..., "batch_stats": ...} of arrays or of their shapes and dtypes.
      detector: the detector that the variables belong to.

    Returns:
      Variables like `variables`, as numpy arrays with the values and dtypes of the state dict.

    Raises:
      UserError: entries are missing, do not belong to the detector, or have the wrong shape.
    """
    matched = match_entries(state_dict, variables, detector)
    _refuse([entry.name for entry in matched.missing], "are missing in the checkpoint")
    _refuse([entry.name for entry in matched.left_over], "are in the checkpoint but not in this detector")
    _refuse(
        [f"{name} {found} instead of {wanted}" for name, found, wanted in matched.other_shape],
        "have the wrong shape",
    )
    return unflatten_dict(matched.arrays, sep="/")


def _transposed(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return x.transpose(axes) if x.ndim == 4 else x


def _refuse(names: Iterable[str], problem: str) -> None:
    if names := sorted(names):
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"{len(names)} entries {problem}: {listed}; use the config that they belong to")
