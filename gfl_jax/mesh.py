"""One axis of devices, `data`: batches are split over it, everything else is on all of them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gfl_jax.errors import UserError


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over these devices, or over all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_batch(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, field: str = "config.loader.batch_size") -> None:
    """Checks that each device gets the same number of pictures.

    Raises:
      UserError: the global batch is not divisible by the number of devices.
    """
    devices = mesh.size
    if batch_size % devices:
        below = batch_size // devices * devices
        fitting = f"{below} or {below + devices}" if below else f"{devices} or {2 * devices}"
        raise UserError(
            f"{field}={batch_size}: not divisible by the {devices} devices; "
            f"choose a multiple of {devices}, such as {fitting}"
        )


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts numpy arrays on the devices, split by their first axis.

    Args:
      batch: a pytree of this process's rows of the global batch.
      mesh: from `make_mesh`.

    Returns:
      The same pytree of global arrays.
    """
    sharding = split_by_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def put_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays whole on every device."""
    return jax.device_put(tree, replicated(mesh))
