#!/usr/bin/env bash
# One process of a training run: what all launchers start. Arguments go to `main.py train`.
#
# Reads CONFIG, WORKDIR, DATA_DIR, EXTRA_ARGS and PYTHON; README.md beside this file says what they are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${CONFIG:?set it to a file of configs/}" "${WORKDIR:?set it to a folder that all hosts share}"
arguments=("--config=$CONFIG" "--workdir=$WORKDIR")
if [[ -n "${DATA_DIR:-}" ]]; then
    arguments+=("--config.dataset.tfds_dir=$DATA_DIR")
fi
read -ra extra <<<"${EXTRA_ARGS:-}"

# exec: the signals that ask the run to stop reach it, and its exit status is ours.
exec "${PYTHON:-python}" main.py train "${arguments[@]}" "${extra[@]}" "$@"
