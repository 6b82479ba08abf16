"""Maps in strips: the form in which a TPU computes few images fastest.

A TPU's registers have eight rows, which XLA fills with the images of a batch: a single one fills an eighth.
So maps are split into strips along their width, which take the place of images; a convolution gives each
strip the next columns of its neighbors. XLA can do so by itself ("space to batch"), but then pads and
copies maps before and after each convolution.

The strips of an image stand side by side on the axis of the batch: (images * strips, height, width of a
strip, channels). Who has to know them is told the number of `images`; None: maps are whole.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

ROWS = 8  # of a TPU's registers

WholeMaps = Float[Array, "images height width c"]
Maps = Float[Array, "batch height w c"]  # whole or in strips


def split(x: WholeMaps, strips: int) -> Maps:
    """Whole maps in strips."""
    images, height, width, channels = x.shape
    columns = x.reshape(images, height, strips, width // strips, channels)
    return columns.swapaxes(1, 2).reshape(images * strips, height, -1, channels)


def whole(x: Maps, images: int | None) -> WholeMaps:
    """Maps without strips."""
    if images is None or len(x) == images:
        return x
    _, height, _, channels = x.shape
    strips = x.reshape(images, -1, *x.shape[1:])
    return strips.swapaxes(1, 2).reshape(images, height, -1, channels)


def count_strips(x: Maps, images: int | None) -> int:
    """The number of strips of each map."""
    return 1 if images is None else len(x) // images


def split_again(x: Maps, images: int | None, strips: int) -> Maps:
    """Maps in another number of strips."""
    return x if images is None or len(x) == images * strips else split(whole(x, images), strips)


def with_even_width(x: Maps, images: int) -> Maps:
    """Maps in fewer strips if their width is odd, so that a stride of 2 begins anew in each."""
    strips = len(x) // images
    while x.shape[2] % 2 and strips % 2 == 0:
        strips //= 2
        x = split_again(x, images, strips)
    return x


def with_neighbors(x: Maps, images: int, left: int, right: int) -> Maps:
    """Strips with so many columns of those next to them; with zeros at the borders of an image."""
    if len(x) == images:
        return jnp.pad(x, ((0, 0), (0, 0), (left, right), (0, 0)))
    # Of the columns alone an array with an axis for the strips, so that no chip asks for another's.
    strips = x.reshape(images, -1, *x.shape[1:])
    parts = [x]
    if left:
        before = jnp.pad(strips[:, :-1, :, -left:], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        parts.insert(0, before.reshape(len(x), x.shape[1], left, -1))
    if right:
        after = jnp.pad(strips[:, 1:, :, :right], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
        parts.append(after.reshape(len(x), x.shape[1], right, -1))
    return jnp.concatenate(parts, axis=2)
