"""Published rates of the accelerators that runs are planned for, in plain bytes, FLOPs and seconds.

Network rates are for one direction: what one chip can send. In the inner network (a TPU's ICI, a GPU's
NVLink), this is the rate of all its links together. In the outer network (the data center network between TPU
slices, InfiniBand between GPU hosts), it is the chip's share of the host's network card.
"""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator and its host."""

    memory: float  # bytes that a program may use
    flops: float  # per second, dense, bfloat16
    clock: float  # cycles per second
    memory_rate: float  # bytes per second, of the HBM
    inner_rate: float  # bytes per second over ICI or NVLink
    inner_chips: int  # number of chips that ICI or NVLink joins: a pod, or a host
    ring_chips: int  # fewest chips whose links close to rings; fewer chips have half the inner rate
    outer_rate: float  # bytes per second between pods or hosts
    host_chips: int  # chips per host, in the machines of multi-host runs
    host_cores: int  # virtual cores per host
    examples: tuple[str, ...]  # topology names for libtpu


# TPU memory: the HBM that libtpu 0.0.42 reports as available when a program does not fit ("available HBM
# (15.75G)"); the data sheets say 16, 95 and 32 GB. All other TPU values are from
# https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e. These pages give ICI per chip for both directions
# together (400, 1200 and 800 GB/s), and the data center network per pod (6.4 and 25.6 Tbit/s for 256 chips)
# or per chip (50 Gbit/s). The links of v5e and v6e close to rings only along axes of 16 chips, those of v5p
# in cubes of 4x4x4.
# TPU clocks: derived from the FLOPs, for a multiple of 128 x 128 multiply-adds per cycle.
# H100: NVIDIA's data sheet of the SXM version, https://www.nvidia.com/en-us/data-center/h100/ (NVLink 900
# GB/s for both directions together), and that of DGX H100: eight NDR cards of 400 Gbit/s, 112 cores for 8
# GPUs.
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
