#!/usr/bin/env bash
# A run on a Cloud TPU slice, from creating its machines to deleting them; needs gcloud, logged in.
# usage: launch/tpu_vm.sh [--dry-run] create
#        launch/tpu_vm.sh [--dry-run] setup
#        launch/tpu_vm.sh [--dry-run] run CONFIG [--workdir=DIR] [--config.field=value ...]
#        launch/tpu_vm.sh [--dry-run] logs [DIR]
#        launch/tpu_vm.sh [--dry-run] delete
# create: the slice. setup: mounts P4D_NFS, copies the committed code to every host, installs it.
# run: starts the config on every host, in the background; again after a break, it goes on.
# logs: what each host printed, as DIR/<host>.log (default: runs/tpu_logs). delete: the slice and its disks.
# Environment: P4D_TPU name (p4d), P4D_ZONE (us-central1-a), P4D_ACCELERATOR (v5litepod-16),
#   P4D_RUNTIME (v2-alpha-tpuv5-lite), P4D_PROJECT (gcloud's), P4D_SPOT=1 for a spot slice,
#   P4D_NFS=HOST:/SHARE a file share that becomes /mnt/p4d on every host, for the workdir.
set -euo pipefail

usage() {
  sed -n '3,13s/^# //p' "$0" >&2
  exit 2
}

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
if [[ $# -lt 1 ]]; then
  usage
fi
action=$1
shift

cd "$(dirname "$0")/.."
name=${P4D_TPU:-p4d}
where=("--zone=${P4D_ZONE:-us-central1-a}")
if [[ -n ${P4D_PROJECT:-} ]]; then
  where+=("--project=$P4D_PROJECT")
fi

# Prints a command, and runs it unless this is a dry run.
step() {
  printf '%q ' "$@"
  echo
  if ! $dry_run; then
    "$@"
  fi
}

# Runs a command line on every host; further arguments go to gcloud.
on_all_hosts() {
  step gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all "--command=$1" "${@:2}"
}

create() {
  local options=("--accelerator-type=${P4D_ACCELERATOR:-v5litepod-16}")
  options+=("--version=${P4D_RUNTIME:-v2-alpha-tpuv5-lite}")
  if [[ -n ${P4D_SPOT:-} ]]; then
    options+=(--spot)
  fi
  step gcloud compute tpus tpu-vm create "$name" "${where[@]}" "${options[@]}"
}

setup() {
  local archive=/tmp/p4d_jax.tar.gz mount
  if [[ -n ${P4D_NFS:-} ]]; then
    mount="sudo apt-get install -y nfs-common && sudo mkdir -p /mnt/p4d"
    mount+=" && { mountpoint -q /mnt/p4d || sudo mount -t nfs $(printf %q "$P4D_NFS") /mnt/p4d; }"
    mount+=" && sudo chmod a+rwx /mnt/p4d"
    on_all_hosts "$mount"
  fi
  step git archive --format=tar.gz "--output=$archive" HEAD
  step gcloud compute tpus tpu-vm scp "$archive" "$name:p4d_jax.tar.gz" "${where[@]}" --worker=all
  # The hosts' own Python is older than ours; uv brings one.
  on_all_hosts "mkdir -p p4d_jax && tar -xzf p4d_jax.tar.gz -C p4d_jax && cd p4d_jax\
 && python3 -m pip install --user uv && python3 -m uv venv --allow-existing --python=3.12 .venv\
 && python3 -m uv pip install --python=.venv/bin/python -e '.[train,tpu]'"
}

run() {
  if [[ $# -lt 1 || $1 == -* ]]; then
    usage
  fi
  local command=(.venv/bin/python -m p4d_jax.main "--config=$1" "${@:2}")
  on_all_hosts "cd p4d_jax && { nohup $(printf '%q ' "${command[@]}")>> run.log 2>&1 < /dev/null & }"
}

logs() {
  local folder=${1:-runs/tpu_logs}
  step mkdir -p "$folder"
  on_all_hosts "cat p4d_jax/run.log" "--output-directory=$folder"
}

delete() {
  step gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
}

case $action:$# in
  create:0 | setup:0 | delete:0) "$action" ;;
  logs:0 | logs:1 | run:*) "$action" "$@" ;;
  *) usage ;;
esac
