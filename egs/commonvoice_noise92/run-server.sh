#!/usr/bin/env bash
# The server of a deployed federation: waits for its silos (run-client.sh), trains with them, and writes the model.
# Run again after an interruption, it resumes after the last completed round. DEPLOYMENT.md has the commands.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=../../utils/recipe.sh
. "$root/utils/recipe.sh"

port=18000
hosts=
certificates=certificates
insecure=false
connect_s=3600
start_s=
stall_s=
fl_partition=deployed

help_message="Usage: $0 [options]
  --num_clients N             number of silos ($num_clients)
  --port N                    port to listen on ($port)
  --hosts \"NAME ADDRESS\"      names and addresses by which silos reach the server, for its certificate
  --certificates DIR          of tools/make_certificates.sh; made if missing ($certificates)
  --insecure true|false       no TLS and no keys: for tests on one machine ($insecure)
  --connect_s N               how long the first round waits for silos, in seconds ($connect_s)
  --start_s N                 give up if Flower has not started the training by then, in seconds (600)
  --stall_s N                 give up if nothing has changed for so long, in seconds (10 minutes more than the longest
                              of --connect_s and round_timeout_s of the federated training)
  --mini true|false           use the generated corpus ($mini)
  --train_config FILE         YAML file of the network and its training (conf/train_small.yaml)
  --fl_config FILE            YAML file of the federated training (conf/fl.yaml)
  --train_args, --fl_args     more options for 'sase federate', such as \"--fl-set num_rounds=50\"
  --fl_strategy, --fl_server, --num_rounds, --local_epochs, --fedprox_mu, --fl_payload   override the file
  --seed N, --ngpu N, --tag NAME   as for run.sh
  --config FILE               a shell file that sets any of these
The development set is dump/cv, from this machine's own data: ./run.sh --stop-stage 2 makes it."
# shellcheck source=../../utils/parse_options.sh
. "$root/utils/parse_options.sh"

fl=true
certificates=$(absolute "$certificates")
settle_recipe "$@"
[ -d "$dump/cv" ] || fail "$PWD/$dump/cv not found, the development set; ./run.sh --stop-stage 2 makes it"
engine_options=(--engine-option port="$port" --engine-option connect_s="$connect_s")
if [ -n "$start_s" ]; then engine_options+=(--engine-option start_s="$start_s"); fi
if [ -n "$stall_s" ]; then engine_options+=(--engine-option stall_s="$stall_s"); fi
if $insecure; then
  engine_options+=(--engine-option insecure=true --engine-option host=127.0.0.1)
else
  if [ ! -d "$certificates" ]; then
    [ -n "$hosts" ] || fail "needs --hosts: the names and addresses by which silos reach this machine"
    "$root/tools/make_certificates.sh" --out "$certificates" --hosts "$hosts" --silos "$num_clients"
  fi
  engine_options+=(--engine-option certificates="$certificates")
fi
sase federate --config "$train_config" --fl-config "$fl_config" --dev-set "$dump/cv" --exp "$exp" \
  --num-clients "$num_clients" --seed "$seed" --ngpu "$ngpu" --engine deployment "${engine_options[@]}" \
  "${train_args[@]}" "${fl_args[@]}"
echo "$(date '+%F %T') done: $PWD/$exp/best.pt; ./run.sh --mini $mini --tag $tag --stage 4 tests it"
