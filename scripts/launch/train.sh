#!/usr/bin/env bash
# Runs one process of a training run. All launchers start this script. Arguments go to `main.py train`.
#
# Reads CONFIG, WORKDIR, DATA_DIR, EXTRA_ARGS and PYTHON; docs/clusters.md explains them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${CONFIG:?set it to a file of configs/}" "${WORKDIR:?set it to a folder that all hosts share}"
arguments=("--config=$CONFIG" "--workdir=$WORKDIR")
if [[ -n "${DATA_DIR:-}" ]]; then
    arguments+=("--config.dataset.tfds_dir=$DATA_DIR")
fi
read -ra extra <<<"${EXTRA_ARGS:-}"

# With exec, stop signals reach the run, and this script has its exit status.
exec "${PYTHON:-python}" main.py train "${arguments[@]}" "${extra[@]}" "$@"
