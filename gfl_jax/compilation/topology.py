"""The devices that a program is compiled for: those of this machine, or a TPU slice elsewhere."""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from gfl_jax.compilation.chips import CHIPS
from gfl_jax.errors import UserError

LOCAL = "local"

# Without these, libtpu asks the metadata server of a TPU machine, or searches the machine for TPUs. The last
# one lets several processes load libtpu, which is safe because none of them uses a TPU.
_WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Target(NamedTuple):
    """The devices that a program is compiled for."""

    name: str  # "local", or the name of a TPU slice
    kind: str  # of its chips: a key of CHIPS, or jax's name of a local device
    devices: list[jax.Device]
    capacity: float | None  # bytes of one chip's memory that a program may use; None: unknown


def find_target(name: str) -> Target:
    """The devices of "local", or of a TPU slice such as "v5e:4x4".

    Raises:
      UserError: there is no such slice, or it needs libtpu and that is not installed.
    """
    return _local() if name == LOCAL else _tpu_slice(name)


def _local() -> Target:
    devices = jax.devices()
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Target(LOCAL, "CPU", devices, memory / len(devices))
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    return Target(LOCAL, devices[0].device_kind, devices, limit)


def _tpu_slice(name: str) -> Target:
    kind, shape = parse_topology(name)
    if not has_libtpu():
        raise UserError(
            f"--topology={name}: compiling for TPUs needs libtpu; "
            'pip install "libtpu==0.0.42.*" (the extra `tpu`)'
        )
    for variable, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(variable, value)
    # libtpu has to be told that a single chip is only a part of a host.
    part_of_host = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(shape) == 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **part_of_host)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={name}: {reason}; {_examples()}") from error
    return Target(name, kind, found.devices, CHIPS[kind].memory)


def has_libtpu() -> bool:
    """Whether libtpu, the TPU compiler, is installed, or is named by the variable TPU_LIBRARY_PATH."""
    return "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
    """Parses the kind of chip and the shape of a slice: "v5e:4x4" is ("v5e", (4, 4)).

    Raises:
      UserError: there is no such slice.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    kind = match[1] if match else ""
    if match is None or kind not in CHIPS or not CHIPS[kind].examples:
        raise UserError(f"--topology={name}: there is no such topology; {_examples()}")
    shape = tuple(int(side) for side in match[2].split("x"))
    axes = CHIPS[kind].examples[0].count("x") + 1
    if len(shape) != axes or not 0 < math.prod(shape) <= CHIPS[kind].inner_chips:
        raise UserError(
            f"--topology={name}: a slice of {kind} has {axes} sides and at most "
            f"{CHIPS[kind].inner_chips} chips; {_examples()}"
        )
    return kind, shape


def _examples() -> str:
    names = [example for chip in CHIPS.values() for example in chip.examples]
    return f"use {LOCAL}, or a TPU slice such as {', '.join(names)}"
