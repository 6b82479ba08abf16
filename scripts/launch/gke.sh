#!/usr/bin/env bash
# Prints the manifest of a training run on Google Kubernetes Engine, with the variables filled in. They are
# explained in docs/clusters.md.
#
#   CONFIG=configs/gfl_r50_fpn_1x_coco.py WORKDIR=/shared/runs/gfl_r50 IMAGE=... CLAIM=... NODES=4 \
#       bash scripts/launch/gke.sh tpu | kubectl apply -f -
set -euo pipefail

devices="${1:-}"
case $devices in
    gpu)
        accelerator=nvidia-h100-80gb
        export GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
        ;;
    tpu)
        accelerator=tpu-v5-lite-podslice
        export TOPOLOGY="${TOPOLOGY:-4x4}" CHIPS_PER_NODE="${CHIPS_PER_NODE:-4}"
        ;;
    *)
        echo "usage: gke.sh gpu|tpu" >&2
        exit 2
        ;;
esac
: "${CONFIG:?set it to a file of configs/}" "${WORKDIR:?set it to a folder on the claim}"
: "${IMAGE:?set it to an image with the repository}" "${CLAIM:?set it to a PersistentVolumeClaim}"
: "${NODES:?set it to the number of hosts}"
export CONFIG WORKDIR IMAGE CLAIM NODES NAME="${NAME:-gfl-jax}" MOUNT="${MOUNT:-/shared}"
export DATA_DIR="${DATA_DIR:-}" EXTRA_ARGS="${EXTRA_ARGS:-}" MAX_RESTARTS="${MAX_RESTARTS:-20}"
export ACCELERATOR="${ACCELERATOR:-$accelerator}"

python3 -c 'import os, string, sys; print(string.Template(sys.stdin.read()).substitute(os.environ), end="")' \
    <"$(dirname "${BASH_SOURCE[0]}")/gke_${devices}_jobset.yaml"
