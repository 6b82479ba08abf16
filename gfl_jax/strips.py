"""Feature maps in strips, the layout that a TPU computes fastest for one image at a time.

The registers of a TPU have eight rows, which XLA fills with the images of a batch; a single image fills an
eighth. So its maps are split into strips along their width, and the strips act as images. Before a
convolution, each strip gets the adjacent columns of its neighbors. XLA can do this itself ("space to batch"),
but then it pads and copies maps before and after each convolution.

The strips of an image are consecutive on the batch axis: (images * strips, height, width of a strip,
channels). Functions that must know the strips get the number of `images`; None means whole maps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ROWS = 8  # of the registers of a TPU

WholeMaps = Float[Array, "images height width c"]
Maps = Float[Array, "batch height w c"]  # whole or in strips


def split(x: WholeMaps, strips: int) -> Maps:
    """Splits whole maps into strips."""
    images, height, width, channels = x.shape
    columns = x.reshape(images, height, strips, width // strips, channels)
    return columns.swapaxes(1, 2).reshape(images * strips, height, -1, channels)


def whole(x: Maps, images: int | None) -> WholeMaps:
    """Joins strips to whole maps; whole maps are returned unchanged."""
    if images is None or len(x) == images:
        return x
    _, height, _, channels = x.shape
    strips = x.reshape(images, -1, *x.shape[1:])
    return strips.swapaxes(1, 2).reshape(images, height, -1, channels)


def count_strips(x: Maps, images: int | None) -> int:
    """The number of strips of each map."""
    return 1 if images is None else len(x) // images


def split_again(x: Maps, images: int | None, strips: int) -> Maps:
    """Changes the number of strips; whole maps (`images` is None) are returned unchanged."""
    return x if images is None or len(x) == images * strips else split(whole(x, images), strips)


def with_even_width(x: Maps, images: int) -> Maps:
    """Joins pairs of strips while their width is odd, so a stride of 2 can start anew in each strip."""
    strips = len(x) // images
    while x.shape[2] % 2 and strips % 2 == 0:
        strips //= 2
        x = split_again(x, images, strips)
    return x


def with_neighbors(x: Maps, images: int, left: int, right: int) -> Maps:
    """Adds `left` and `right` columns of the neighbors to each strip, or zeros at an image border."""
    if len(x) == images:
        return jnp.pad(x, ((0, 0), (0, 0), (left, right), (0, 0)))
    # Only the columns get an axis for the strips, so no chip needs data of another chip.
    strips = x.reshape(images, -1, *x.shape[1:])
    parts = [x]
    if left:
        before = jnp.pad(strips[:, :-1, :, -left:], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        parts.insert(0, before.reshape(len(x), x.shape[1], left, -1))
    if right:
        after = jnp.pad(strips[:, 1:, :, :right], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
        parts.append(after.reshape(len(x), x.shape[1], right, -1))
    return jnp.concatenate(parts, axis=2)


def one_by_one(function: Callable[[Maps], Any], x: Maps, images: int, chips: int) -> Any:
    """Applies a function of maps in strips to one image of each chip at a time.

    Args:
      function: returns a pytree of maps in strips. It treats each image independently.
      x: the images of all chips in strips. Those of a chip are consecutive.
      images: number of images in the batch.
      chips: number of chips that they are on.
    """
    # The chips have an axis of their own, so no chip needs data of another chip.
    of_chips = x.reshape(chips, images // chips, -1, *x.shape[1:])
    results = [function(of_chips[:, i].reshape(-1, *x.shape[1:])) for i in range(images // chips)]

    def join(*maps: Maps) -> Maps:
        # Strips become whole maps later, all at once: a TPU moves them faster than one image at a time.
        of_chips = jnp.stack([y.reshape(chips, -1, *y.shape[1:]) for y in maps], axis=1)
        return of_chips.reshape(-1, *maps[0].shape[1:])

    return jax.tree.map(join, *results)
