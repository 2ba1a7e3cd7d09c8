#!/usr/bin/env bash
# The silos of a deployed federation: one, on the machine with its data, or all of them on this machine.
# Exits when the server (run-server.sh) says that training is over. DEPLOYMENT.md has the commands.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=../../utils/recipe.sh
. "$root/utils/recipe.sh"

silo=
data_dir=
state_dir=
server=localhost:18000
certificates=certificates
insecure=false
threads=
wait_s=3600
min_noise=
max_epsilon=
require_masks=false
fl_partition=silo

help_message="Usage: $0 --silo N --data_dir DIR --server HOST:PORT     one silo, on the machine with its data
       $0 --num_clients N                                all silos here, from this recipe's dump
  --silo N                    index of this silo, from 0
  --data_dir DIR              its data: dump directories tr/ and optionally tt/; they never leave this machine
  --server HOST:PORT          where the server listens ($server)
  --certificates DIR          folder with ca.crt and silo.key, or with silo0/, silo1/ ... ($certificates)
  --insecure true|false       no TLS and no keys: for tests on one machine ($insecure)
  --state_dir DIR             folder for the silo's state and logs (state<N>, beside its data)
  --threads N                 CPU threads per silo (all cores, divided among the silos here)
  --wait_s N                  how long to wait for an unreachable server, in seconds ($wait_s)
  --min_noise Z, --max_epsilon E, --require_masks true|false
                              what the silo demands of the server's config (docs/privacy.md, docs/secure_aggregation.md)
  --ngpu N                    0: CPU, 1: GPU ($ngpu)
  --num_clients N, --fl_partition WHICH, --fl_alpha X, --mini true|false    as for run.sh, when all silos are here
  --config FILE               a shell file that sets any of these"
# shellcheck source=../../utils/parse_options.sh
. "$root/utils/parse_options.sh"

data_dir=$(absolute "$data_dir") state_dir=$(absolute "$state_dir") certificates=$(absolute "$certificates")
[ -n "$silo$data_dir" ] || all=true
if [ -z "${all:-}" ]; then
  [ -n "$silo" ] && [ -n "$data_dir" ] || fail "--silo and --data_dir must be given together"
fi
settle_recipe "$@"
device=cpu
if ((ngpu > 0)); then device=cuda; fi
options=(--server "$server" --device "$device" --wait-s "$wait_s")
options+=(${min_noise:+--min-noise "$min_noise"} ${max_epsilon:+--max-epsilon "$max_epsilon"})
if $require_masks; then options+=(--require-masks); fi
if $insecure; then options+=(--insecure); else options+=(--certificates "$certificates"); fi

if [ -z "${all:-}" ]; then
  exec sase silo --silo "$silo" --data-dir "$data_dir" "${options[@]}" ${state_dir:+--state-dir "$state_dir"} \
    ${threads:+--threads "$threads"}
fi

sase partition --train "$dump/tr" --test "$dump/tt" --out "$silos" \
  --by "$fl_partition" --num-silos "$num_clients" --alpha "$fl_alpha"
: "${threads:=$((nj / num_clients > 1 ? nj / num_clients : 1))}"
pids=()
for ((k = 0; k < num_clients; k++)); do
  background sase silo --silo "$k" --data-dir "$silos/silo$k" "${options[@]}" --threads "$threads"
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
