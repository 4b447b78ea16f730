#!/usr/bin/env bash
# Runs a config as several processes on this machine that talk over loopback, each with its own forced CPU
# devices: a rehearsal of many hosts.
# usage: launch/local_multiprocess.sh [--dry-run] [--processes=2] [--devices=4] [--port=8476]
#            CONFIG [--workdir=DIR] [--config.field=value ...]
# processes: how many; devices: CPU devices of each; port: where process 0 listens, on 127.0.0.1.
# P4D_CACHE names the folder of compiled programs.
set -euo pipefail

usage() {
  sed -n '4,7s/^# //p' "$0" >&2
  exit 2
}

dry_run=false processes=2 devices=4 port=8476
while [[ ${1:-} == --* ]]; do
  case $1 in
    --dry-run) dry_run=true ;;
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    *) usage ;;
  esac
  shift
done
if [[ $# -lt 1 || ! "$processes:$devices:$port" =~ ^[1-9][0-9]*:[1-9][0-9]*:[1-9][0-9]*$ ]]; then
  usage
fi
config=$1
shift

cd "$(dirname "$0")/.."
settings=(
  "JAX_COMPILATION_CACHE_DIR=${P4D_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/p4d_jax/compiled}"
  "JAX_PLATFORMS=cpu"
  "JAX_NUM_CPU_DEVICES=$devices"
)
command=(env "${settings[@]}" python -m p4d_jax.main "--config=$config" "$@")
command+=("--coordinator=127.0.0.1:$port" "--processes=$processes")

for ((k = 0; k < processes; k++)); do
  printf '%q ' "${command[@]}" "--process=$k"
  echo '&'
done
echo wait
if $dry_run; then
  exit
fi

# Runs process K, its number before every line that it prints. Who reads the lines does so to the end.
run_process() {
  "${command[@]}" "--process=$1" 2>&1 | {
    trap '' INT TERM
    while IFS= read -r line; do
      printf '[%d] %s\n' "$1" "$line"
    done
  }
}

set -m  # each process leads a group, so that it can be stopped with all that it started
started=()
signal_all() {
  for group in "${started[@]}"; do
    kill "-$1" -- "-$group" 2>/dev/null || true
  done
}
any_left() {
  for group in "${started[@]}"; do
    if kill -0 -- "-$group" 2>/dev/null; then
      return 0
    fi
  done
  return 1
}
# Asks all to end, which save their step first, and ends those that have not done so after 30 s.
stop() {
  trap '' INT TERM
  signal_all TERM
  for ((tenths = 0; tenths < 300; tenths++)); do
    any_left || return 0
    sleep 0.1
  done
  signal_all KILL
}
trap stop EXIT
trap 'exit 130' INT TERM
for ((k = 0; k < processes; k++)); do
  run_process "$k" &
  started+=($!)
done
# The first that fails ends all: the others would wait for it.
for ((left = processes; left > 0; left--)); do
  code=0
  wait -n -p ended || code=$?
  if ((code)); then
    for ((k = 0; k < processes; k++)); do
      if [[ ${started[k]} == "${ended:-}" ]]; then
        echo "local_multiprocess.sh: process $k ended with code $code; the others are asked to end" >&2
      fi
    done
    exit "$code"
  fi
done
