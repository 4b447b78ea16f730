#!/usr/bin/env bash
# Runs a config on this machine, on the accelerator that JAX finds.
# usage: launch/run.sh [--dry-run] CONFIG [--workdir=DIR] [--config.field=value ...]
# P4D_PLATFORM=cpu|cuda|tpu chooses another device; P4D_CACHE names the folder of compiled programs.
set -euo pipefail

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
if [[ $# -lt 1 ]]; then
  sed -n '3,4s/^# //p' "$0" >&2
  exit 2
fi
config=$1
shift

cd "$(dirname "$0")/.."
settings=("JAX_COMPILATION_CACHE_DIR=${P4D_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/p4d_jax/compiled}")
if [[ -n ${P4D_PLATFORM:-} ]]; then
  settings+=("JAX_PLATFORMS=$P4D_PLATFORM")
fi
if [[ ${P4D_PLATFORM:-} == cuda ]]; then
  # Memory is taken as it is needed, so that two jobs can share one card.
  settings+=("XLA_PYTHON_CLIENT_PREALLOCATE=false")
fi
command=(env "${settings[@]}" python -m p4d_jax.main "--config=$config" "$@")

printf '%q ' "${command[@]}"
echo
if ! $dry_run; then
  exec "${command[@]}"
fi
