"""Detects the processes of a run, from flags or from their launcher: Slurm, Open MPI, Cloud TPU, GKE."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from gfl_jax.errors import UserError

FLAGS = {"coordinator": "--coordinator", "num_processes": "--num-processes", "process_id": "--process-id"}
VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
_LOGGER = logging.getLogger(__name__)
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def find_launch(
    environment: Mapping[str, str], flags: Mapping[str, str | None] | None = None, detect: bool = False
) -> dict[str, Any] | None:
    """Returns the arguments for `jax.distributed.initialize`. None if this process is the only one.

    Args:
      environment: the environment variables of the process. JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
        and JAX_PROCESS_ID are set by hand or by the scripts in scripts/launch. Without them, the cluster's
        own variables are used.
      flags: values of "coordinator" (HOST:PORT), "num_processes" and "process_id". A flag overrides its
        environment variable.
      detect: let jax detect the processes, which Cloud TPU VMs need.

    Raises:
      UserError: only some of the three values are given, or a value is invalid.
    """
    given = {name: (flags or {}).get(name) or environment.get(VARIABLES[name]) for name in FLAGS}
    if any(given.values()):
        return _by_hand(given)
    if detect:
        return {}
    method = _detection_method(environment)
    if method is None and "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        _LOGGER.warning(  # jax would ask the cluster, which needs a service account and another package
            "the pods of an indexed Kubernetes Job do not know one another, so this process runs alone; "
            "for one run of all pods set %s (see scripts/launch)",
            ", ".join(VARIABLES.values()),
        )
    return None if method is None else {"cluster_detection_method": method}


def _by_hand(given: Mapping[str, str | None]) -> dict[str, Any] | None:
    if given["num_processes"] == "1":
        return None
    missing = [f"{FLAGS[name]} (or {VARIABLES[name]})" for name, value in given.items() if not value]
    if missing:
        raise UserError(
            f"{' and '.join(missing)}: not given; several processes need all of --coordinator=HOST:PORT, "
            "--num-processes=N and --process-id=0 to N-1"
        )
    count, number = (_whole_number(name, given[name] or "") for name in ("num_processes", "process_id"))
    if count < 1:
        raise UserError(f"--num-processes={count}: must be at least 1")
    if number >= count:
        raise UserError(f"--process-id={number}: must be 0 to {count - 1}, for --num-processes={count}")
    address = given["coordinator"] or ""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/\s]+):(\d+)", address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise UserError(
            f"--coordinator={address}: must be HOST:PORT, the machine of process 0 and a free port on it, "
            "such as 10.0.0.1:8476"
        )
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": number,
        "cluster_detection_method": "deactivate",
    }


def _whole_number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise UserError(f"{FLAGS[name]}={text}: must be a whole number, at least 0")
    return int(text)


def _detection_method(environment: Mapping[str, str]) -> str | None:
    """Returns jax's name for the cluster that started this process with others. None if there is none."""
    hosts, slices = environment.get("TPU_WORKER_HOSTNAMES", ""), environment.get("MEGASCALE_NUM_SLICES", "1")
    if "," in hosts or (hosts and slices != "1"):
        return "gketpu"
    if all(name in environment for name in _SLURM) and environment["SLURM_NTASKS"] != "1":
        return "slurm"
    if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        return "ompi"
    return None
