"""Published rates of the accelerators that runs are planned for: bytes, FLOPs and seconds, not powers of two.

Networks are given in one direction, as what one chip can send: all its links together within the
inner network (a TPU's ICI, a GPU's NVLink), its share of the host's card in the outer one (the data
center network between TPU slices, InfiniBand between GPU hosts).
"""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator, and the host that it sits in."""

    memory: float  # bytes that a program may use
    flops: float  # a second, dense, bfloat16
    clock: float  # cycles a second
    memory_rate: float  # bytes a second, of its HBM
    inner_rate: float  # bytes a second over ICI or NVLink
    inner_chips: int  # chips that ICI or NVLink joins: a pod, or a host
    ring_chips: int  # from so many on the links close to rings; fewer chips have half the inner rate
    outer_rate: float  # bytes a second between pods or hosts
    host_chips: int  # chips of a host, of the machines that multi-host runs are made of
    host_cores: int  # virtual cores of it
    examples: tuple[str, ...]  # names of topologies for libtpu


# TPU memory: what libtpu 0.0.42 says is available when a program does not fit ("available HBM (15.75G)");
# the data sheets say 16, 95 and 32 GB. All else: https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e,
# which give ICI per chip for both directions together (400, 1200 and 800 GB/s) and the data center
# network per pod (6.4 and 25.6 Tbit/s for 256 chips) or per chip (50 Gbit/s). The links of v5e and v6e
# close to rings only along axes of 16 chips, those of v5p in cubes of 4x4x4.
# Clocks of TPUs: what their FLOPs come to, in multiples of 128 x 128 multiplications and additions a cycle.
# H100: the SXM data sheet of NVIDIA, https://www.nvidia.com/en-us/data-center/h100/ (NVLink 900 GB/s for
# both directions together), and that of DGX H100: eight NDR cards of 400 Gbit/s, 112 cores for 8 GPUs.
CHIPS = {
    "v5e": Chip(
        *(15.75 * GIB, 197e12, 1.5e9, 819e9, 200e9, 256, 256, 6.4e12 / 256 / 8, 4, 112),
        examples=("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16"),
    ),
    "v5p": Chip(
        *(95.74 * GIB, 459e12, 1.75e9, 2765e9, 600e9, 8960, 64, 50e9 / 8, 4, 208),
        examples=("v5p:2x2x1", "v5p:2x2x2", "v5p:4x4x4"),
    ),
    "v6e": Chip(
        *(31.25 * GIB, 918e12, 1.75e9, 1640e9, 400e9, 256, 256, 25.6e12 / 256 / 8, 4, 180),
        examples=("v6e:2x2", "v6e:4x4", "v6e:8x8", "v6e:16x16"),
    ),
    "H100": Chip(80e9, 989e12, 1.83e9, 3350e9, 450e9, 8, 1, 400e9 / 8, 8, 112, examples=()),
}
