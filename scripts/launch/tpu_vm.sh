#!/usr/bin/env bash
# A training run on a Cloud TPU VM slice, one process for each host. From the repository's root:
#
#   export ZONE=us-west4-a ACCELERATOR=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite
#   export CONFIG=configs/gfl_r50_fpn_1x_coco.py WORKDIR=/shared/runs/gfl_r50
#   export SETUP="sudo mkdir -p /shared && sudo mount -t nfs 10.0.0.2:/share /shared"
#   for command in create setup run; do bash scripts/launch/tpu_vm.sh $command; done
#   bash scripts/launch/tpu_vm.sh logs      # or: status, stop, delete
#
# docs/clusters.md explains the variables.
set -euo pipefail

: "${NAME:=gfl-jax}" "${ZONE:?set it to the zone of the slice}"
# shellcheck disable=SC2016  # the shells of the hosts expand it
service='gfl_jax@$(id -un)'

tpu() {
    gcloud compute tpus tpu-vm "$@" --zone="$ZONE"
}

on_all_hosts() {
    tpu ssh "$NAME" --worker=all --command="$1"
}

create() {
    : "${ACCELERATOR:?set it to a type such as v5litepod-16}" "${RUNTIME:?set it to its software version}"
    tpu create "$NAME" --accelerator-type="$ACCELERATOR" --version="$RUNTIME" ${SPOT:+--spot}
}

setup() {
    local folder
    folder="$(mktemp -d)"
    git archive --format=tar.gz --output="$folder/gfl_jax.tar.gz" HEAD
    tpu scp "$folder/gfl_jax.tar.gz" "$NAME:" --worker=all
    rm -r "$folder"
    # The Python of the hosts may be too old. uv downloads one.
    on_all_hosts "set -e
        ${SETUP:-true}
        mkdir -p gfl_jax && tar -xzf gfl_jax.tar.gz -C gfl_jax && cd gfl_jax
        sudo cp scripts/launch/gfl_jax@.service /etc/systemd/system/ && sudo systemctl daemon-reload
        python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --clear --python 3.12 .venv
        version=\$(sed -n s/^jax==//p requirements.txt)
        python3 -m uv pip install --quiet --python .venv -r requirements.txt \"jax[tpu]==\$version\""
}

run() {
    : "${CONFIG:?set it to a file of configs/}" "${WORKDIR:?set it to a folder that all hosts share}"
    local name environment=$'PYTHON=.venv/bin/python\n'
    for name in CONFIG WORKDIR DATA_DIR EXTRA_ARGS; do
        environment+="$name=\"${!name:-}\""$'\n'
    done
    on_all_hosts "printf %s $(printf %q "$environment") | sudo tee /etc/gfl_jax.env >/dev/null
        sudo systemctl reset-failed $service 2>/dev/null
        sudo systemctl restart $service"
}

case "${1:-}" in
    create | setup | run) "$1" ;;
    logs) tpu ssh "$NAME" --worker=0 --command="sudo journalctl --unit=$service --output=cat --lines=50 --follow" ;;
    status) on_all_hosts "systemctl show $service --property=ActiveState,ExecMainStatus,NRestarts" ;;
    stop) on_all_hosts "sudo systemctl stop $service" ;;
    delete) tpu delete "$NAME" --quiet ;;
    *)
        echo "usage: tpu_vm.sh create|setup|run|logs|status|stop|delete" >&2
        exit 2
        ;;
esac
