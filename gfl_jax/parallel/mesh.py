"""A mesh of all devices with two axes. Batches are split over both, the training state over `fsdp`.

With `fsdp` 1 every device holds the whole state. Otherwise large arrays are split over the devices of
that axis (fully sharded data parallelism), and gathered where a step computes with them. Both are only
shardings: they affect numbers only by the order of sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from gfl_jax import config
from gfl_jax.errors import UserError

AXES = ("data", "fsdp")
# Arrays with fewer elements stay whole on every device: gathering them costs more than their memory.
LEAST_SHARDED = 2**14


def make_mesh(mesh: config.Mesh = config.Mesh(), devices: list[jax.Device] | None = None) -> Mesh:
    """Makes the mesh of `config.mesh` over these devices, or over all devices of all processes.

    Raises:
      UserError: the size of the mesh differs from the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data = max(count // mesh.fsdp, 1) if mesh.data is None else mesh.data
    if data * mesh.fsdp != count:
        raise UserError(
            f"config.mesh: data={data} times fsdp={mesh.fsdp} is not {count}, the number of devices; "
            f"set data to None and fsdp to one of {_listed(divisors(count))}"
        )
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, mesh.fsdp), AXES, axis_types=auto, devices=devices)


def platform_of(mesh: Mesh) -> str:
    """Returns the platform of the devices: "cpu", "gpu" or "tpu"."""
    platform: str = mesh.devices.flat[0].platform
    return platform


def tpu_chips(mesh: Mesh | None) -> int | None:
    """The number of chips of a mesh of TPUs; None for other devices, and without a mesh."""
    return mesh.size if mesh is not None and platform_of(mesh) == "tpu" else None


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that are whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def split_over_fsdp(shapes: Any, mesh: Mesh, least: int = LEAST_SHARDED) -> Any:
    """Shards each array of a pytree over `fsdp`, along its largest axis that `fsdp` divides.

    Args:
      shapes: a pytree of arrays or `jax.ShapeDtypeStruct`s.
      mesh: from `make_mesh`.
      least: arrays with fewer elements stay whole on every device, as do arrays without such an axis.

    Returns:
      The same pytree of shardings.
    """
    count = mesh.shape["fsdp"]

    def sharding(x: Any) -> NamedSharding:
        axes = [i for i, size in enumerate(x.shape) if size % count == 0]
        if count == 1 or not axes or np.prod(x.shape) < least:
            return replicated(mesh)
        largest = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(sharding, shapes)


def check_accumulate(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Checks that each device gets the same number of images of each micro-batch.

    Args:
      batch_size: the size of the global batch, a multiple of the number of devices.
      accumulate: the number of micro-batches.
      mesh: from `make_mesh`.

    Raises:
      UserError: `accumulate` does not divide the images of each device. The message names numbers that fit.
    """
    each = batch_size // mesh.size
    if accumulate < 1 or each % accumulate:
        raise UserError(
            f"config.optimizer.accumulate={accumulate}: does not divide the {each} images that each device "
            f"gets of config.loader.batch_size={batch_size}; choose one of {_listed(divisors(each))}"
        )


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Returns abstract arrays with these shapes and shardings.

    Args:
      shapes: a pytree of arrays or `jax.ShapeDtypeStruct`s.
      shardings: the same pytree of shardings, or one for all.
    """
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def on_own_rows(function: Callable[[Any, Any], Any], mesh: Mesh | None) -> Callable[[Any, Any], Any]:
    """Makes each device compute a function (whole, rows) -> rows on its own rows, without communication.

    The compiler does so by itself, except for `top_k`: there it would gather all rows on every device.

    Args:
      function: treats each row of a batch independently.
      mesh: from `make_mesh`; None: the function is returned unchanged.
    """
    if mesh is None:
        return function
    whole, rows = PartitionSpec(), PartitionSpec(AXES)
    return jax.shard_map(function, mesh=mesh, in_specs=(whole, rows), out_specs=rows, check_vma=False)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Checks that each device gets the same number of images of a training batch.

    Raises:
      UserError: the number of devices does not divide the global batch. The message names counts that fit.
    """
    devices = mesh.size
    if batch_size % devices:
        below = batch_size // devices * devices
        fitting = f"{below} or {below + devices}" if below else f"{devices} or {2 * devices}"
        counts = [count for count in divisors(batch_size) if count <= jax.device_count()]
        raise UserError(
            f"config.loader.batch_size={batch_size}: not divisible by the {devices} devices; the counts of "
            f"devices that fit are {_listed(counts)}; or choose a multiple of {devices}, such as {fitting}"
        )


def round_up_batch(batch_size: int, mesh: Mesh) -> int:
    """Rounds a batch size up to a multiple of the number of devices. The added rows are fillers."""
    return -(-batch_size // mesh.size) * mesh.size


def divisors(number: int) -> list[int]:
    """Returns all divisors of a positive whole number, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


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
    """Replicates arrays, which all processes have, on every device. They may be sharded before."""
    return jax.device_put(tree, replicated(mesh))


def gather(tree: Any) -> Any:
    """Returns global arrays as whole numpy arrays on every process.

    With several processes this communicates, so all of them must call it.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
