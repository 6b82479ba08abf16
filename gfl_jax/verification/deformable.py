"""Compares deformable convolutions of both versions, and all gradients, with reference values."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gfl_jax.models.deform_conv import deform_conv2d
from gfl_jax.verification.reference import Reference, Row

TOLERANCE = 1e-5  # the reference values are float32


def verify_deformable(reference: Reference) -> Iterator[Row]:
    """Recomputes every deformable convolution in a file of single functions."""
    for name in sorted({"dcn" + key.split("/")[0] for key in reference.keys("dcn")}):
        yield Row(f"{name}, with all gradients", _deviation(reference, name), TOLERANCE)


def _deviation(reference: Reference, name: str) -> float:
    """The largest relative deviation of the result and of its gradients."""
    stride, groups, deform_groups = (int(x) for x in reference[f"{name}/cfg_stride_groups_dg"])

    def to_ours(key: str, axes: tuple[int, ...] = (0, 2, 3, 1)) -> Array:
        return jnp.asarray(reference[f"{name}/{key}"].transpose(axes))

    inputs = {"x": to_ours("x"), "offset": to_ours("offset"), "weight": to_ours("weight", (2, 3, 1, 0))}
    modulated = f"{name}/mask" in reference
    if modulated:
        inputs["mask"] = to_ours("mask")
        inputs["bias"] = jnp.asarray(reference[f"{name}/bias"])

    def convolve(x: dict[str, Array]) -> Array:
        y = deform_conv2d(x["x"], x["offset"], x["weight"], x.get("mask"), stride, groups, deform_groups)
        return y + x.get("bias", 0)

    @jax.jit  # one program takes a tenth of the time of single operations
    def differentiate(x: dict[str, Array], gy: Array) -> tuple[Array, dict[str, Array]]:
        result, pull_back = jax.vjp(convolve, x)
        return result, pull_back(gy)[0]

    result, gradients = differentiate(inputs, to_ours("gy"))
    deviations = [reference.deviation(f"{name}/y", np.asarray(result).transpose(0, 3, 1, 2))]
    for key, gradient in gradients.items():
        axes = {"weight": (3, 2, 0, 1), "bias": (0,)}.get(key, (0, 3, 1, 2))
        deviations.append(reference.deviation(f"{name}/g{key}", np.asarray(gradient).transpose(axes)))
    return max(deviations)
