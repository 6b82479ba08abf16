"""Detection of the processes of a run, from flags and from the cluster's variables."""

import pytest
from jax._src import clusters

from gfl_jax.command_line.main import main
from gfl_jax.errors import UserError
from gfl_jax.parallel.launch import find_launch

VARIABLES = {"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
BY_HAND = {
    "coordinator_address": "host:1234",
    "num_processes": 4,
    "process_id": 3,
    "cluster_detection_method": "deactivate",
}
SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_NODELIST": "a,b",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def test_a_single_process_needs_no_arguments():
    for environment in ({}, {"JAX_NUM_PROCESSES": "1"}, VARIABLES | {"JAX_NUM_PROCESSES": "1"}):
        assert find_launch(environment) is None


def test_flags_override_variables():
    assert find_launch(VARIABLES) == BY_HAND
    flags = {"coordinator": "[::1]:99", "num_processes": None, "process_id": "0"}
    assert find_launch(VARIABLES, flags) == BY_HAND | {"coordinator_address": "[::1]:99", "process_id": 0}
    assert find_launch(VARIABLES | SLURM, detect=True) == BY_HAND
    assert find_launch({}, detect=True) == {}


@pytest.mark.parametrize(
    ("environment", "method"),
    [
        (SLURM, "slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_ID": "1"}, None),  # in a batch script, without srun
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "ompi"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (POD | {"JOB_COMPLETION_INDEX": "0"}, None),
        (POD | {"JOB_COMPLETION_INDEX": "0", "TPU_WORKER_HOSTNAMES": "a,b"}, "gketpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "gketpu"),
    ],
)
def test_the_cluster_is_detected(environment, method, caplog):
    assert find_launch(environment) == (method and {"cluster_detection_method": method})
    alone_in_a_job = method is None and "JOB_COMPLETION_INDEX" in environment
    assert ("this process runs alone" in caplog.text) == alone_in_a_job


@pytest.mark.parametrize(
    "environment",
    [
        SLURM,
        {"OMPI_COMM_WORLD_SIZE": "2"},
        POD | {"TPU_WORKER_HOSTNAMES": "a,b", "JOB_COMPLETION_INDEX": "0"},
    ],
)
def test_jax_knows_the_names_of_detected_clusters(environment):
    """Only the names are checked, since this machine is in no cluster."""
    method = find_launch(environment)["cluster_detection_method"]
    assert method in {cluster.name for cluster in clusters.ClusterEnv._cluster_types}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"JAX_PROCESS_ID": ""}, r"--process-id \(or JAX_PROCESS_ID\): not given"),
        (
            {"JAX_COORDINATOR_ADDRESS": "", "JAX_PROCESS_ID": ""},
            r"--coordinator .* and --process-id .*: not given",
        ),
        ({"JAX_PROCESS_ID": "4"}, "--process-id=4: must be 0 to 3"),
        ({"JAX_PROCESS_ID": "-1"}, "--process-id=-1: must be a whole number"),
        ({"JAX_NUM_PROCESSES": "many"}, "--num-processes=many: must be a whole number"),
        ({"JAX_NUM_PROCESSES": "0"}, "--num-processes=0: must be at least 1"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "--coordinator=host: must be HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "host:99999"}, "--coordinator=host:99999: must be HOST:PORT"),
    ],
)
def test_invalid_values_are_one_line_errors(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        find_launch(VARIABLES | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_commands_accept_the_flags(command, capsys, tmp_path):
    arguments = [command, "--config=nowhere.py", f"--workdir={tmp_path}"]
    assert main([*arguments, "--coordinator=host"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --num-processes (or JAX_NUM_PROCESSES) and --process-id"
    )
    assert main([*arguments, "--heartbeat-seconds=1"]) == 2
    assert capsys.readouterr().err == "error: --heartbeat-seconds=1: must be at least 2\n"
