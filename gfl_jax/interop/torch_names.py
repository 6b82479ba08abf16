"""Names and layouts of mmdetection's PyTorch state dicts, and of the variables here.

Every entry there has one here: 'backbone.layer2.0.conv1.weight' (out, in, h, w) is
params/backbone/layer2_0/conv1/kernel (h, w, in, out).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gfl_jax.config import Detector
from gfl_jax.errors import UserError

# What stands in our path, and what in its place in the name there. Applied in this order.
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
)
LEAVES = (
    (r"(kernel|scale)$", "weight"),
    (r"mean$", "running_mean"),
    (r"var$", "running_var"),
)
# Entries there that hold nothing learned.
CONSTANTS = re.compile(r"num_batches_tracked$|integral\.project$")


def head_prefix(detector: Detector) -> str:
    """What the last convolutions of mmdetection's head of this kind are called after."""
    if detector.assigner.kind == "fcos":
        return "conv"
    return "gfl" if detector.box.kind == "general" else "atss"


def torch_name(path: str, detector: Detector) -> str:
    """The name in a state dict of our path, e.g. 'head/class_logits/kernel'."""
    name = path
    for pattern, replacement in MODULES:
        name = re.sub(pattern, replacement, name)
    if not name.startswith("bbox_head.scales."):
        for pattern, replacement in LEAVES:
            name = re.sub(pattern, replacement, name)
    return name.replace("/", ".").replace("PREFIX", head_prefix(detector))


def to_torch(collection: Mapping[str, Any], detector: Detector) -> dict[str, np.ndarray]:
    """One collection (params, their gradients, or batch_stats) under PyTorch's names and layouts."""
    flat = flatten_dict(collection, sep="/")
    return {
        torch_name(path, detector): _transposed(np.asarray(value), (3, 2, 0, 1))
        for path, value in flat.items()
    }


def from_torch(
    state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any], detector: Detector
) -> dict[str, Any]:
    """Variables filled from a state dict.

    Args:
      state_dict: names to arrays in PyTorch's layout; every entry must have its place.
      variables: {"params": ..., "batch_stats": ...} of arrays or of their shapes and dtypes.
      detector: the detector that they belong to.

    Returns:
      Variables like `variables`, with numpy arrays of the state dict's values and dtypes.

    Raises:
      UserError: entries are missing, left over, or of another shape.
    """
    flat = flatten_dict(variables, sep="/")
    names = {path: torch_name(path.split("/", 1)[1], detector) for path in flat}
    _refuse(sorted(set(names.values()) - set(state_dict)), "missing in the checkpoint")
    left_over = sorted(name for name in set(state_dict) - set(names.values()) if not CONSTANTS.search(name))
    _refuse(left_over, "in the checkpoint but not in this detector")
    filled = {path: _transposed(np.asarray(state_dict[name]), (2, 3, 1, 0)) for path, name in names.items()}
    _refuse(
        [
            f"{names[path]} {filled[path].shape} for {tuple(flat[path].shape)}"
            for path in flat
            if filled[path].shape != tuple(flat[path].shape)
        ],
        "of another shape (ours after the word for)",
    )
    return unflatten_dict(filled, sep="/")


def _transposed(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return x.transpose(axes) if x.ndim == 4 else x


def _refuse(names: Iterable[str], problem: str) -> None:
    names = list(names)
    if names:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"{len(names)} entries are {problem}: {listed}; choose the config they belong to")
