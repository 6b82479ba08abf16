"""Feature maps with two rows in one, the layout that a TPU computes fastest for 64 channels.

The registers and matrix units of a TPU have 128 columns, one for each channel, and maps with 64 channels fill
half of them. So two adjacent rows become one row with twice as many channels: first those of the upper row,
then those of the lower row. A kernel for such maps has zeros where a result does not depend on a row.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def split_pairs(x: Float[Array, "batch h w 2*c"]) -> Float[Array, "batch 2*h w c"]:
    """Converts a map with pairs of rows to a map with single rows."""
    batch, pairs, columns, channels = x.shape
    rows = x.reshape(batch, pairs, columns, 2, channels // 2)
    return rows.transpose(0, 1, 3, 2, 4).reshape(batch, 2 * pairs, columns, channels // 2)


def pair_kernel(
    kernel: Float[Array, "size size in out"], stride: int
) -> tuple[Float[Array, "pairs size 2*in out2"], tuple[int, int]]:
    """Converts a kernel for single rows to the equivalent kernel for pairs of rows.

    With stride 1 its results are pairs of rows again (out2 is 2 * out). With stride 2, which a pair of rows
    always contains once, they are single rows (out2 is out). In both cases it moves pair by pair.

    Returns:
      The kernel, and the padding at the top and at the bottom, in pairs.
    """
    size, _, channels, features = kernel.shape
    half, results = size // 2, 2 // stride
    above, below = (half + 1) // 2, (results - 1 + half) // 2  # pairs that a result depends on
    rows = 2 * (above + 1 + below)
    first = [2 * above - half + row for row in range(results)]  # row of the kernel's top, for each result
    moved = [jnp.pad(kernel, ((top, rows - size - top), (0, 0), (0, 0), (0, 0))) for top in first]
    pairs = jnp.stack(moved, axis=-2).reshape(rows // 2, 2, size, channels, results * features)
    return pairs.swapaxes(1, 2).reshape(rows // 2, size, 2 * channels, results * features), (above, below)
