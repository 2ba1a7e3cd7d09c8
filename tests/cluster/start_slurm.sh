#!/usr/bin/env bash
# Start a single-node Slurm on this machine for the tests: munge, slurmctld and slurmd, with a partition of 2 CPUs
# or CPUS, which may be more than the machine has.
#
#   tests/cluster/start_slurm.sh DIR [CPUS]    all files are in DIR; prints a line for the shell to evaluate
#   tests/cluster/stop_slurm.sh DIR            stops it
#
# Only the programs of an installed Slurm or munge are used; key, socket, ports and state are separate. The programs are
# in Debian's packages slurm-wlm and munge, which are installed if they are missing and the user is root.
# The exit status is 3 if they are missing and cannot be installed.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then echo "usage: $0 DIR [CPUS]" >&2; exit 1; fi
cpus=${2:-2}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
export PATH=$PATH:/usr/sbin:/sbin

missing() {
  local program
  for program in munged munge slurmctld slurmd sbatch scancel squeue scontrol; do
    command -v "$program" >>"$folder/install.log" || { echo "$program"; return; }
  done
}
cannot() {
  echo "start_slurm.sh: $*" >&2
  exit 3
}
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

if [ -n "$(missing)" ]; then
  [ "$(id -u)" = 0 ] || cannot "$(missing) not found; root can install slurm-wlm and munge"
  command -v apt-get >>"$folder/install.log" || cannot "$(missing) not found, and no apt-get to install it with"
  for step in update "install --yes --no-install-recommends slurm-wlm munge"; do
    # shellcheck disable=SC2086  # $step is several arguments
    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q $step >>"$folder/install.log" 2>&1 ||
      cannot "$(missing) not found, and 'apt-get $step' failed: $(tail -n 1 "$folder/install.log")"
  done
  [ -z "$(missing)" ] || cannot "$(missing) not found, even after installing slurm-wlm and munge"
fi

mkdir -p "$folder/state" "$folder/spool"
chmod go-w "$folder"
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
memory=$(awk '$1 == "MemTotal:" {print int($2 / 1024)}' /proc/meminfo)
cat >"$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
DefMemPerCPU=500
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobCompType=jobcomp/none
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

{
  munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" --force
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF"
} >>"$folder/start.log" 2>&1

for ((second = 0; second < 60; second++)); do
  state=$(sinfo --noheader --format %T 2>>"$folder/start.log" || echo "no answer")
  if [ "$state" = idle ]; then
    printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
    exit 0
  fi
  sleep 1
done
echo "start_slurm.sh: the node is '$state' after a minute; see the logs in $folder" >&2
"$(dirname "$0")/stop_slurm.sh" "$folder"
exit 1
