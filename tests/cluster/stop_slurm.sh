#!/usr/bin/env bash
# Stop the Slurm that tests/cluster/start_slurm.sh started in DIR, and cancel its jobs: stop_slurm.sh DIR
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 1; }
folder=$(cd "$1" && pwd)
export SLURM_CONF=$folder/slurm.conf

if [ -e "$folder/slurmctld.pid" ]; then
  scancel --user="$(id -un)" || echo "stop_slurm.sh: the controller does not answer" >&2
  for ((second = 0; second < 20; second++)); do
    [ -n "$(squeue --noheader)" ] || break
    sleep 1
  done
fi
for program in slurmd slurmctld munged; do
  if [ -s "$folder/$program.pid" ]; then
    pid=$(cat "$folder/$program.pid")
    if kill "$pid"; then
      while [ -e "/proc/$pid" ]; do sleep 0.1; done
    fi
  fi
done
