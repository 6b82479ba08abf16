"""Maps in strips: the form in which a TPU computes few images fastest.

A TPU's registers have eight rows, which XLA fills with the images of a batch: a single one fills an eighth.
So maps are split into strips along their width, which convolutions treat as images; each strip is given
the next columns of its neighbors. XLA can do so by itself ("space to batch"), but then pads and copies
maps before and after each convolution.

An array in strips has one more axis: (batch, strips, height, width of a strip, channels).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

ROWS = 8  # of a TPU's registers

Maps = Float[Array, "*batch height width c"]  # with or without an axis of strips


def in_strips(x: Maps) -> bool:
    """Whether maps are in strips."""
    return x.ndim == 5


def split(x: Float[Array, "batch height width c"], strips: int) -> Float[Array, "batch strips height w c"]:
    """Whole maps in strips."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height, strips, width // strips, channels).swapaxes(1, 2)


def whole(x: Maps) -> Float[Array, "batch height width c"]:
    """Maps without strips."""
    if not in_strips(x):
        return x
    batch, _, height, _, channels = x.shape
    return x.swapaxes(1, 2).reshape(batch, height, -1, channels)


def split_like(x: Maps, other: Maps) -> Maps:
    """Maps in as many strips as others."""
    if x.ndim == other.ndim and (not in_strips(x) or x.shape[1] == other.shape[1]):
        return x
    return split(whole(x), other.shape[1]) if in_strips(other) else whole(x)


def with_even_width(x: Float[Array, "batch strips height w c"]) -> Float[Array, "batch s height w2 c"]:
    """Maps in fewer strips if their width is odd, so that a stride of 2 begins anew in each."""
    while x.shape[3] % 2 and x.shape[1] % 2 == 0:
        x = split(whole(x), x.shape[1] // 2)
    return x


def with_neighbors(
    x: Float[Array, "batch strips height w c"], left: int, right: int
) -> Float[Array, "batch strips height w2 c"]:
    """Strips with so many columns of those next to them; with zeros at the borders of a map."""
    rest = ((0, 0),) * 3
    parts = [x]
    if left:
        parts.insert(0, jnp.pad(x[:, :-1, :, -left:], ((0, 0), (1, 0), *rest)))
    if right:
        parts.append(jnp.pad(x[:, 1:, :, :right], ((0, 0), (0, 1), *rest)))
    return jnp.concatenate(parts, axis=3)


def as_images(
    function: Callable[[Float[Array, "n height width c"]], Float[Array, "n h w c2"]], x: Maps
) -> Maps:
    """A function of images, of strips as if each were one."""
    y = function(x.reshape(-1, *x.shape[-3:]))
    return y.reshape(*x.shape[:-3], *y.shape[1:])
