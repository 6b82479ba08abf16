"""Deformable against plain convolutions at the size of C4 (800x1344 images by default)."""

import functools
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.measure import Case, Row, Say, measure
from gfl_jax.models.conv_gradient import conv2d
from gfl_jax.models.deform_conv import Form, deform_conv2d

STRIDE = 16
LAYERS = ((256, 1), (1024, 32))  # channels and groups of ResNet-101 and of ResNeXt-101-32x8d


def deformable_rows(batch_size: int, size: tuple[int, int], repeats: int, say: Say) -> list[list[Row]]:
    """Times a 3x3 convolution of each layer, plain and in both deformable forms, without and with gradients.

    Offsets are normal with a standard deviation of one pixel. The name of a deformable case gives the
    memory that all sampled columns would take at once.
    """
    return [
        measure(_cases(batch_size, size, channels, groups, say), repeats, say) for channels, groups in LAYERS
    ]


def _cases(batch_size: int, size: tuple[int, int], channels: int, groups: int, say: Say) -> list[Case]:
    rng = np.random.default_rng(0)
    rows, columns = size[0] // STRIDE, size[1] // STRIDE

    def normal(*shape: int, deviation: float = 1.0) -> Array:
        return jnp.asarray(rng.normal(scale=deviation, size=shape), jnp.float32)

    x, offsets = normal(batch_size, rows, columns, channels), normal(batch_size, rows, columns, 18)
    kernel = normal(3, 3, channels // groups, channels, deviation=0.02)
    plain: Callable[..., Array] = lambda x, offsets, kernel: conv2d(x, kernel, None, 1, groups)  # noqa: E731
    functions: dict[str, Callable[..., Array]] = {"convolution": plain}
    functions |= {f"deformable by {form}": _deformable(form, groups) for form in get_args(Form)}
    column_megabytes = 9 * x.size * 4 / 1e6
    layer = f"{channels} channels, {groups} groups"
    cases = []
    for direction, make in (("forward", jax.jit), ("forward and backward", _with_gradients)):
        names = [f"{kind}, {layer}, {direction}" for kind in functions]
        names[1:] = [f"{name} (columns: {column_megabytes:.0f} MB)" for name in names[1:]]
        against = None
        for name, function in zip(names, functions.values(), strict=True):
            say(f"deform: compiling {name}")
            compiled: Any = make(function).lower(x, offsets, kernel).compile()
            run = functools.partial(compiled, x, offsets, kernel)
            cases.append(Case("deform", name, size, batch_size, run, against, compiled))
            against = names[0]
    return cases


def _deformable(form: Form, groups: int) -> Callable[..., Array]:
    return lambda x, offsets, kernel: deform_conv2d(x, offsets, kernel, groups=groups, form=form)


def _with_gradients(function: Callable[..., Array]) -> Any:
    """Returns the gradients of the sum of squares. The cotangent is twice the result."""
    return jax.jit(jax.grad(lambda *inputs: jnp.sum(jnp.square(function(*inputs))), argnums=(0, 1, 2)))
