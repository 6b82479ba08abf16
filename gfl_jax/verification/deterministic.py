"""Weights and images that are pure functions of a name or a seed.

The reference values were computed with them, so no weights have to be stored.
"""

import zlib

import numpy as np
from jaxtyping import Float, UInt8


def _rng(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)


def projection(name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
    """The random array on which the reference projected the gradient of a parameter."""
    return _rng("proj:" + name).standard_normal(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One entry of a PyTorch state dict.

    Args:
      name: e.g. 'backbone.layer2.0.conv1.weight'.
      shape: in PyTorch's layout (convolutions are OIHW).

    Returns:
      float32 values (int64 zeros for 'num_batches_tracked').
    """
    leaf = name.split(".")[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "project":
        return np.linspace(0, shape[0] - 1, shape[0]).astype(np.float32)
    z = _rng(name).standard_normal(shape)
    fan_in = np.prod(shape[1:]) if len(shape) == 4 else 1
    is_cls = any(part in name for part in ("gfl_cls", "atss_cls", "conv_cls"))
    if leaf == "running_mean":
        value = 0.1 * z
    elif leaf == "running_var":
        value = np.exp(0.1 * z)
    elif leaf == "scale":
        value = 1.0 + 0.1 * z
    elif "conv_offset" in name:
        value = z * (1.0 / np.sqrt(fan_in)) if leaf == "weight" else 0.3 * z
    elif leaf == "weight" and len(shape) == 4:
        value = z * _convolution_scale(name, is_cls, fan_in)
    elif leaf == "weight" and len(shape) == 1:
        value = 1.0 + 0.1 * z
        value = 0.3 * value if name.endswith("bn3.weight") else value
    elif leaf == "bias":
        value = _bias(name, is_cls, z)
    else:
        raise KeyError(name)
    return np.asarray(value, np.float32).reshape(shape)


def _convolution_scale(name: str, is_cls: bool, fan_in: float) -> float:
    if is_cls or any(part in name for part in ("atss_reg", "conv_reg", "centerness")):
        return 0.02
    if "gfl_reg" in name:
        return 0.05
    return np.sqrt((1.0 if name.startswith("neck") else 2.0) / fan_in)


def _bias(name: str, is_cls: bool, z: np.ndarray) -> np.ndarray:
    if is_cls:
        return -4.0 + 0.5 * z
    if "gfl_reg" in name:
        return z * 0.5 - 0.25 * np.tile(np.arange(len(z) // 4), 4)
    if "conv_reg" in name:
        return 0.3 * z + 1.5
    return 0.1 * z


def image(seed: int, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """An image in BGR order: blocks, gradients and noise."""
    rng = np.random.RandomState(seed)
    blocks = rng.randint(0, 256, (-(-height // 16), -(-width // 16), 3)).astype(np.float64)
    pixels = np.kron(blocks, np.ones((16, 16, 1)))[:height, :width]
    y, x = np.mgrid[0:height, 0:width]
    pixels = 0.6 * pixels + 0.2 * (x[..., None] / width * 255) + 0.2 * (y[..., None] / height * 255)
    pixels = pixels + rng.standard_normal((height, width, 3)) * 12
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
