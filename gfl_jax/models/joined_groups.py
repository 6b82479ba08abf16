"""Groups of a convolution joined to fewer and larger ones, with zeros between them, for TPUs.

Matrix units of 128 x 128 take as long for a group of 8 channels as for one of 128. And XLA gives each
group an axis of its own, filled up to 128: a 3x3 convolution of 512 channels in 32 groups, 50x84 places,
takes 15 times as long as it does joined to 4 groups, by the compiler's estimate for a v5e.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LANES = 128  # the width of a TPU's matrix units


def num_joined(channels: int, groups: int) -> int:
    """How many groups are left if they are joined as long as one has LANES channels or less."""
    return next(
        n for n in range(1, groups + 1) if groups % n == 0 and (n == groups or channels // n <= LANES)
    )


def join_groups(
    kernel: Float[Array, "size size in_per_group out"], groups: int
) -> Float[Array, "size size in_per_joined_group out"]:
    """The kernel of the same convolution with `num_joined` groups."""
    size, _, each, out = kernel.shape
    joined = num_joined(each * groups, groups)
    together = groups // joined
    parts = kernel.reshape(size, size, 1, each, joined, together, out // groups)
    same = np.eye(together, dtype=bool)[:, None, None, :, None]
    return jnp.where(same, parts, 0).reshape(size, size, together * each, out)
