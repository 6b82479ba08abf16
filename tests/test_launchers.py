"""Checks scripts/launch as shell scripts and Kubernetes objects, and runs them with stand-ins of clusters."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "scripts" / "launch"
SHELL_FILES = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
KUBERNETES = "1.31"  # the oldest whose schema is checked
RUN = {
    "CONFIG": "configs/gfl_trees.py",
    "WORKDIR": "/shared/runs/a run",
    "DATA_DIR": "/shared/data/trees",
    "EXTRA_ARGS": "--config.seed=1 --config.run.log_every=10",
}
ARGUMENTS = [
    "main.py",
    "train",
    "--config=configs/gfl_trees.py",
    "--workdir=/shared/runs/a run",
    "--config.dataset.tfds_dir=/shared/data/trees",
    "--config.seed=1",
    "--config.run.log_every=10",
]
RECORD = """
import json, os, pathlib, sys
name, *arguments = sys.argv[1:]
with (pathlib.Path(__file__).parent / name).open("a") as file:
    print(json.dumps([arguments, dict(os.environ)]), file=file)
"""


@pytest.fixture
def stand_in(tmp_path):
    """A function (name, shell code) that makes a command, which records its call and then runs the code."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "record.py").write_text(RECORD)

    def make(name, code=""):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/bash\n{sys.executable} {tmp_path}/record.py {name} "$@"\n{code}\n')
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def launch(tmp_path):
    """A function (file, *arguments, **variables) that runs a launcher with the stand-ins first in PATH."""

    def run(file, *arguments, **variables):
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", str(LAUNCH / file), *arguments]
        environment = {"PATH": path, "HOME": str(tmp_path), **variables}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture
def records(tmp_path):
    """A function: command -> [(arguments, environment)] of all its calls so far."""

    def read(name):
        path = tmp_path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.mark.parametrize("file", SHELL_FILES, ids=lambda file: file.name)
def test_shell_files_pass_the_checkers(file):
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in ([shutil.which("shellcheck", path=folders), "--shell=bash"], ["bash", "-n"]):
        result = subprocess.run([*command, str(file)], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_table_lists_every_variable():
    files = [*SHELL_FILES, *LAUNCH.glob("*.yaml")]
    read = set(re.findall(r"\$\{?([A-Z][A-Z_]+)\b", "\n".join(file.read_text() for file in files)))
    rows = re.findall(r"^\| (`[A-Z].*?) \|", (ROOT / "docs" / "clusters.md").read_text(), re.MULTILINE)
    listed = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(listed) == sorted(name for name in read if not name.startswith(("SLURM_", "BASH_")))


def test_train_starts_a_process(stand_in, launch, records):
    python = stand_in("python", "exit 7")
    done = launch("train.sh", "--distributed", **RUN)
    assert done.returncode == 7
    assert records("python")[0][0] == [*ARGUMENTS, "--distributed"]
    done = launch("train.sh", PYTHON=str(python), CONFIG="c.py", WORKDIR="w")
    assert records("python")[1][0] == ["main.py", "train", "--config=c.py", "--workdir=w"]
    done = launch("train.sh", CONFIG="c.py")
    assert done.returncode != 0
    assert "WORKDIR: set it to a folder that all hosts share" in done.stderr


def test_the_slurm_script_submits_itself(stand_in, launch, records):
    stand_in("sbatch")
    assert launch("slurm.sbatch", "--partition=gpu", NODES="2", GPUS_PER_NODE="4", **RUN).returncode == 0
    ((arguments, _),) = records("sbatch")
    *options, script = arguments
    assert options == ["--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=gpu"]
    assert Path(script) == LAUNCH / "slurm.sbatch"
    assert "CONFIG: set it to" in launch("slurm.sbatch", WORKDIR="w").stderr


# Starts the command as two processes, like srun, and returns the higher of their statuses.
SRUN = """
while [[ $1 == --* ]]; do shift; done
status=0
for SLURM_PROCID in 0 1; do
    SLURM_PROCID=$SLURM_PROCID SLURM_LOCALID=$SLURM_PROCID SLURM_NTASKS=2 SLURM_STEP_NODELIST=node1 "$@"
    ended=$?
    ((status = ended > status ? ended : status))
done
exit $status
"""


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (0, 0, False),
        (2, 0, False),
        (130, 0, False),
        (143, 99, True),
        (3, 0, True),
        (137, 4, True),
        (3, 5, False),
    ],
)
def test_slurm_runs_two_processes_and_requeues(stand_in, launch, records, status, restarts, requeued):
    stand_in("srun", SRUN)
    stand_in("scontrol")
    stand_in("python", f"exit {status}")  # all processes of a run end alike
    slurm = {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "4", "SLURM_RESTART_COUNT": str(restarts)}
    done = launch("slurm.sbatch", MAX_RESTARTS="5", **RUN, **slurm)
    assert done.returncode == status
    ((options, _),) = records("srun")
    assert options[:4] == ["--cpus-per-task=4", "--gpu-bind=none", "--kill-on-bad-exit=0", "--wait=0"]
    started = records("python")
    assert [environment["SLURM_PROCID"] for _, environment in started] == ["0", "1"]
    assert all(arguments == [*ARGUMENTS, "--distributed"] for arguments, _ in started)
    assert [arguments for arguments, _ in records("scontrol")] == [["requeue", "17"]] * requeued
    assert str(status) in done.stdout or status in (0, 143)


@pytest.fixture(params=["gpu", "tpu"])
def manifest(request, launch):
    """The devices, and the JobSet with the variables filled in."""
    cluster = {"IMAGE": "registry/gfl_jax:1", "CLAIM": "filestore", "NODES": "4"}
    done = launch("gke.sh", request.param, **RUN, **cluster)
    assert done.returncode == 0, done.stderr
    return request.param, yaml.safe_load(done.stdout)


def test_manifests_are_valid_job_sets(manifest):
    """The JobSet is valid by the JobSet API, and the Job in it by Kubernetes' schema."""
    _, job_set = manifest
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert JobsetV1alpha2JobSet.from_dict(job_set).to_dict() == job_set  # an unknown field would be missing
    (replicated,) = job_set["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, **replicated["template"]}
    kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_manifests_start_the_run_on_each_host(manifest, stand_in, launch, records):
    devices, job_set = manifest
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == (
        {"nvidia.com/gpu": 8} if devices == "gpu" else {"google.com/tpu": 4}
    )
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"shared": "/shared", "memory": "/dev/shm"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)

    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert {name: variables[name] for name in RUN} == RUN
    stand_in("python")
    bash, file, *arguments = container["command"]
    assert (bash, ROOT / file) == ("bash", LAUNCH / "train.sh")
    launch("train.sh", *arguments, **{name: value for name, value in variables.items() if value is not None})
    ((started, environment),) = records("python")
    assert started == [*ARGUMENTS, *(["--distributed"] if devices == "tpu" else [])]
    if devices == "gpu":
        assert environment["JAX_COORDINATOR_ADDRESS"] == "gfl-jax-train-0-0.gfl-jax:8476"
        assert environment["JAX_NUM_PROCESSES"] == "4"
        assert "job-completion-index" in str(container["env"][-1]["valueFrom"])
        assert container["env"][-1]["name"] == "JAX_PROCESS_ID"
        assert job_set["spec"]["network"]["subdomain"] == "gfl-jax"


def test_manifests_end_after_bad_input_and_restart_after_other_failures(manifest):
    _, job_set = manifest
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert (rule["onExitCodes"]["operator"], rule["onExitCodes"]["values"]) == ("In", [2])
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy needs it
    policy = job_set["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 20
    assert policy["rules"] == [
        {"name": "badInput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]


@pytest.mark.parametrize("variable", ["CONFIG", "WORKDIR", "IMAGE", "CLAIM", "NODES"])
def test_a_missing_variable_is_an_error(launch, variable):
    variables = {**RUN, "IMAGE": "image", "CLAIM": "claim", "NODES": "4"}
    del variables[variable]
    done = launch("gke.sh", "gpu", **variables)
    assert done.returncode != 0
    assert f"{variable}: set it to" in done.stderr
    assert done.stdout == ""


TPU = {"ZONE": "us-west4-a", "ACCELERATOR": "v5litepod-16", "RUNTIME": "v2-alpha-tpuv5-lite"}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "create",
            [
                "create",
                "gfl-jax",
                "--accelerator-type=v5litepod-16",
                "--version=v2-alpha-tpuv5-lite",
                "--spot",
            ],
        ),
        ("status", ["ssh", "gfl-jax", "--worker=all"]),
        ("logs", ["ssh", "gfl-jax", "--worker=0"]),
        ("stop", ["ssh", "gfl-jax", "--worker=all"]),
        ("delete", ["delete", "gfl-jax", "--quiet"]),
    ],
)
def test_tpu_vm_commands(stand_in, launch, records, command, words):
    stand_in("gcloud")
    assert launch("tpu_vm.sh", command, SPOT="yes", **TPU).returncode == 0
    ((arguments, _),) = records("gcloud")
    given = [word for word in arguments if not word.startswith("--command=")]
    assert given == ["compute", "tpus", "tpu-vm", *words, "--zone=us-west4-a"]


def test_tpu_vm_starts_a_service_with_the_variables(stand_in, launch, records, tmp_path):
    """The commands for the hosts run here, without sudo."""
    stand_in(
        "gcloud", 'for word; do if [[ $word == --command=* ]]; then bash -c "${word#--command=}"; fi; done'
    )
    stand_in("sudo", f"if [[ $1 == tee ]]; then cat >{tmp_path}/environment; fi")
    assert launch("tpu_vm.sh", "run", **TPU, **RUN).returncode == 0
    calls = [arguments for arguments, _ in records("sudo")]
    service = f"gfl_jax@{subprocess.check_output(['id', '-un'], text=True).strip()}"
    assert calls[0] == ["tee", "/etc/gfl_jax.env"]
    assert calls[-1] == ["systemctl", "restart", service]
    lines = shlex.split((tmp_path / "environment").read_text())
    assert dict(line.split("=", 1) for line in lines) == {"PYTHON": ".venv/bin/python", **RUN}

    unit = (LAUNCH / "gfl_jax@.service").read_text()
    assert "\nEnvironmentFile=/etc/gfl_jax.env\n" in unit
    assert "\nRestartPreventExitStatus=2 130 143\n" in unit
    stand_in("python")
    start = re.search(r"^ExecStart=/bin/bash gfl_jax/scripts/launch/(\S+) (.*)$", unit, re.MULTILINE)
    assert launch(start[1], *shlex.split(start[2]), **RUN).returncode == 0
    assert records("python")[0][0] == [*ARGUMENTS, "--distributed"]


def test_tpu_vm_setup_copies_the_repository(stand_in, launch, records, tmp_path):
    stand_in("gcloud", f'[[ $4 == scp ]] && cp "$5" {tmp_path}/copied.tar.gz; true')
    done = launch("tpu_vm.sh", "setup", SETUP="mount_the_share", **TPU)
    assert done.returncode == 0, done.stderr
    (copy, _), (ssh, _) = records("gcloud")
    assert copy[3:4] + copy[5:] == ["scp", "gfl-jax:", "--worker=all", "--zone=us-west4-a"]
    listed = subprocess.check_output(["tar", "-tzf", str(tmp_path / "copied.tar.gz")], text=True).splitlines()
    assert {"main.py", "requirements.txt", "gfl_jax/command_line/main.py"} <= set(listed)
    command = next(word for word in ssh if word.startswith("--command=")).removeprefix("--command=")
    assert command.index("mount_the_share") < command.index("tar -xzf")
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0


@pytest.mark.parametrize("file", ["gke.sh", "tpu_vm.sh"])
def test_usage(launch, file):
    done = launch(file, "fly", ZONE="z")
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: {file} ")
