# Sourced by every run.sh first: the options and stages that all recipes share.
#
# The run.sh then sets its own options, $fl_partition, and $help_message, which includes $recipe_help; sources
# utils/parse_options.sh; and calls settle_recipe.
# shellcheck disable=SC2034  # options are set and read by name

recipe=$(cd "$(dirname "$0")" && pwd)
recipe=${recipe%/local} # a recipe's scripts in local/ use this file too
command="cd $(printf '%q' "$PWD") && $(printf '%q ' "$recipe/run.sh" "$@")"

# shellcheck source=signals.sh
. "$(dirname "${BASH_SOURCE[0]}")/signals.sh"

stage=0
stop_stage=5
mini=false
nj=$(getconf _NPROCESSORS_ONLN)
ngpu=0
num_nodes=1
node_rank=
master_addr=
master_port=29500
seed=0
skip_bad_test=false
dnsmos=false
tag=
train_config=
train_args=
fl=false
num_clients=4
fl_partition=
fl_alpha=0.5
fl_strategy=
fl_server=
num_rounds=
local_epochs=
fedprox_mu=
fl_payload=
fl_engine=
fl_config=
fl_args=

recipe_help="  --mini true|false           use a small generated corpus, offline; all output is in mini/ ($mini)
  --stage N, --stop-stage N   first and last stage to run ($stage, $stop_stage):
                              0 download, 1 data, 2 dump, 3 train, 4 decode, 5 score
  --nj N                      parallel jobs of stages 2, 4 and 5 (number of cores: $nj)
  --ngpu N                    GPUs per machine for training; 0: CPU ($ngpu)
  --num_nodes M               machines for training; with a cluster in cmd.sh, one job each ($num_nodes)
  --node_rank K --master_addr HOST, --master_port N
                              without a cluster, to be run on each machine: rank of this machine, from 0, and address
                              of the first ($master_port)
  --skip_bad_test true|false  leave bad utterances out of the test set, and mark the results ($skip_bad_test)
  --dnsmos true|false         score by DNSMOS too, of the package speechmos ($dnsmos)
  --seed N                    random seed of the training ($seed)
  --tag NAME                  name of the experiment, exp/NAME (from the configuration and the options that change it)
  --train_config FILE         YAML file (conf/train_small.yaml; with --mini true conf/train_mini.yaml)
  --train_args \"...\"          further options for training, such as \"--set train.learning_rate=1e-4\"
  --fl true|false             federated training: silos train locally and never send audio ($fl)
  --num_clients N             number of silos ($num_clients)
  --fl_partition WHICH        how silos differ: speaker, noise, snr, dirichlet, or silo, as assigned by stage 1
  --fl_alpha X                concentration of dirichlet; smaller means more heterogeneous silos ($fl_alpha)
  --fl_engine ENGINE          simulation: Flower on this machine; deployment: a process, or on a cluster a job, for
                              the server and each silo; inproc: no Flower (simulation; on a cluster deployment)
  --fl_config FILE            YAML file of the federation (conf/fl.yaml; with --mini true conf/fl_mini.yaml)
  --fl_strategy WHICH         overrides FILE; client weighting: examples, uniform, loss, fair or sase
  --fl_server WHICH           overrides FILE; server optimiser: plain, momentum, adam or yogi
  --num_rounds N, --local_epochs N, --fedprox_mu X
                              override FILE; rounds, local epochs per round, strength of the proximal term
  --fl_payload TYPE           overrides FILE; precision of updates: float32, bfloat16 or int8
  --fl_args \"...\"             further options for 'sase federate', such as \"--fl-set scaffold=true\"
  --config FILE               a shell file that sets any of these options"

fail() {
  echo "$0: $*" >&2
  exit 1
}

run_stage() { # run_stage NUMBER NAME: whether the stage is to be run; prints its name
  ((stage <= $1 && $1 <= stop_stage)) || return 1
  echo "$(date '+%F %T') stage $1: $2"
}

check_stages() { # check_stages FIRST LAST: whether there is a stage to run
  (($1 <= stage && stage <= $2)) || fail "--stage $stage: stages are $1 to $2"
  ((stage <= stop_stage)) || fail "--stage $stage is after --stop-stage $stop_stage"
}

run_jobs() { # run_jobs RUNNER LOG command...: run its nj shards, then join them
  local runner=$1 log=$2
  shift 2
  # shellcheck disable=SC2086  # a runner may include options
  foreground $runner --pick failed JOB=1:"$nj" "$log" "$@" --nj "$nj" --job JOB
  "$@" --nj "$nj" --finish
}

absolute() { # absolute FILE: absolute path of a file here or in the recipe's folder; empty stays empty
  case $1 in
    '' | /*) echo "$1" ;;
    *) if [ ! -e "$1" ] && [ -e "$recipe/$1" ]; then echo "$recipe/$1"; else echo "$PWD/$1"; fi ;;
  esac
}

settle_recipe() { # settle_recipe "$@": check common options, set the folders, cd to the recipe
  [ $# -eq 0 ] || fail "unexpected argument: $1; see --help"
  check_stages 0 5
  ((nj >= 1)) || fail "--nj must be 1 or more, not $nj"
  ((num_nodes >= 1)) || fail "--num_nodes must be 1 or more, not $num_nodes"
  [ -z "$node_rank" ] || [ -n "$master_addr" ] || fail "--node_rank needs --master_addr of the first machine"
  ((num_clients >= 1)) || fail "--num_clients must be 1 or more, not $num_clients"
  local preset=small fl_preset=
  work=
  if $mini; then work=mini/ preset=mini fl_preset=_mini; fi
  train_config=$(absolute "${train_config:-conf/train_$preset.yaml}")
  fl_config=$(absolute "${fl_config:-conf/fl$fl_preset.yaml}")
  bad_test=()
  if $skip_bad_test; then bad_test=(--skip-bad-test); fi
  opinion=()
  if $dnsmos; then opinion=(--dnsmos); fi
  read -ra train_args <<<"$train_args"
  read -ra fl_args <<<"$fl_args"
  local name
  for name in fl_strategy fl_server num_rounds local_epochs fedprox_mu fl_payload; do
    if [ -n "${!name}" ]; then fl_args+=(--fl-set "${name#fl_}=${!name}"); fi
  done
  partition=$fl_partition
  if [ "$fl_partition" = dirichlet ]; then partition+=$fl_alpha; fi
  if [ -z "$tag" ]; then tag=$(name_experiment); fi
  case /$tag/ in
    *//* | */./* | */../* | /-*) fail "--tag $tag: must be the name of a folder in exp/" ;;
  esac

  cd "$recipe" || exit 1
  # shellcheck source=../egs/voicebank_demand/path.sh
  . ./path.sh
  # shellcheck source=../egs/voicebank_demand/cmd.sh
  . ./cmd.sh
  if [ "$cmd_backend" = local ] && ((num_nodes > 1)) && [ -z "$node_rank" ]; then
    fail "--num_nodes $num_nodes: cmd.sh names no cluster; run on each machine, with --node_rank and --master_addr"
  fi
  if [ -z "$fl_engine" ]; then
    if [ "$cmd_backend" = local ]; then fl_engine=simulation; else fl_engine=deployment; fi
  fi
  data=${work}data dump=${work}dump exp=${work}exp/$tag
  silos=$dump/silos/${partition}_$num_clients
  enhanced=$exp/enhanced_tt
}

name_experiment() { # name of the configuration, and the options that change it
  local name words=("${train_args[@]}") word
  name=$(basename "$train_config" .yaml)
  if $fl; then
    name+=_fl${num_clients}_$partition
    words+=("${fl_args[@]}")
  fi
  for word in "${words[@]}"; do
    case $word in *=*) name+=_$(sed 's/^[^=]*\.//; s/=//; s/[^[:alnum:].+-]/_/g' <<<"$word") ;; esac
  done
  if [ "$seed" != 0 ]; then name+=_seed$seed; fi
  echo "$name"
}

dump_sets() { # stage 2
  local set keep
  for set in tr cv tt; do
    keep=()
    if [ $set = tt ]; then keep=("${bad_test[@]:---keep-all}"); fi # never skip a test utterance unasked
    run_jobs "$train_cmd" "$dump/$set/logs/dump.JOB.log" \
      sase dump --data "$data/$set" --out "$dump/$set" "${keep[@]}"
  done
}

train() { # stage 3
  mkdir -p "$exp"
  local again=$exp/run.sh partial # replaced atomically: it may be running now
  partial=$exp/.run.sh.$HOSTNAME.$$.partial
  printf '#!/usr/bin/env bash\n# Reruns this experiment; more options may follow.\n%s "$@"\n' "$command" >"$partial"
  chmod +x "$partial"
  mv "$partial" "$again"
  local options=(--config "$train_config" --dev-set "$dump/cv" --exp "$exp" --seed "$seed" --ngpu "$ngpu")
  if $fl; then
    sase partition --train "$dump/tr" --test "$dump/tt" --out "$silos" \
      --by "$fl_partition" --num-silos "$num_clients" --alpha "$fl_alpha"
    options+=(--fl-config "$fl_config" --engine "$fl_engine" "${train_args[@]}" "${fl_args[@]}")
    if [ "$cmd_backend" != local ] && [ "$fl_engine" = deployment ]; then
      federate_by_jobs "${options[@]}"
    else
      train_here_or_there sase federate "${options[@]}" --silos "$silos"
    fi
  elif [ -n "$node_rank" ]; then
    sase train "${options[@]}" --train-set "$dump/tr" "${train_args[@]}" \
      --num-nodes "$num_nodes" --node-rank "$node_rank" --rendezvous "$master_addr:$master_port"
  elif ((num_nodes == 1)); then
    train_here_or_there sase train "${options[@]}" --train-set "$dump/tr" "${train_args[@]}"
  else
    local meet # the first machine publishes its endpoint in this file, a new one each time
    meet=$exp/logs/rendezvous.$(date +%s)
    echo "training in $num_nodes jobs; see $PWD/$exp/train.log and $exp/logs/"
    # shellcheck disable=SC2086  # a runner may include options
    foreground $cuda_cmd --gpu "$ngpu" --max-jobs-run "$num_nodes" NODE=0:$((num_nodes - 1)) "$exp/logs/train.NODE.log" \
      sase train "${options[@]}" --train-set "$dump/tr" "${train_args[@]}" \
      --num-nodes "$num_nodes" --node-rank NODE --rendezvous "$meet"
  fi
}

train_here_or_there() { # train_here_or_there command...: on this machine, or in a job if cmd.sh names a cluster
  if [ "$cmd_backend" = local ]; then
    "$@"
  else
    echo "training in a job; see $PWD/$exp/train.log and $exp/logs/train.log"
    # shellcheck disable=SC2086
    foreground $cuda_cmd --gpu "$ngpu" "$exp/logs/train.log" "$@"
  fi
}

federate_by_jobs() { # federate_by_jobs OPTIONS: a job for the server, then, once it is reachable, one per silo
  local meet device=cpu server clients status=0
  meet=$exp/logs/server.$(date +%s)
  if ((ngpu > 0)); then device=cuda; fi
  echo "one job for the server and one for each of $num_clients silos; see $PWD/$exp/train.log and $exp/logs/"
  # shellcheck disable=SC2086  # a runner may include options
  background $cuda_cmd --gpu "$ngpu" "$exp/logs/server.log" \
    sase federate "$@" --num-clients "$num_clients" --engine-option announce="$meet" --engine-option connect_s=3600
  server=$!
  until [ -e "$meet" ] || [ -z "$(jobs -pr)" ]; do sleep 1; done
  if [ -e "$meet" ]; then # otherwise it failed, or nothing was left to do
    # shellcheck disable=SC2086
    background $cuda_cmd --gpu "$ngpu" --max-jobs-run "$num_clients" SILO=0:$((num_clients - 1)) "$exp/logs/silo.SILO.log" \
      sase silo --silo SILO --data-dir "$silos/siloSILO" --state-dir "$exp/silos/siloSILO" --server "$meet" \
      --certificates "$exp/flower/certificates" --device "$device" --wait-s 600
    clients=$!
    wait -n "$server" "$clients" || signal_groups TERM # if one fails, the other would block; runners cancel their jobs
    wait "$clients" || status=$?
  fi
  wait "$server" || status=$?
  return "$status"
}

decode() { # stage 4
  run_jobs "$decode_cmd" "$enhanced/logs/decode.JOB.log" \
    sase decode --model "$exp/best.pt" --data "$dump/tt" --out "$enhanced"
}

score() { # stage 5
  run_jobs "$decode_cmd" "$enhanced/scoring/logs/score.JOB.log" \
    sase score --data "$dump/tt" --enhanced "$enhanced" --out "$enhanced/scoring" "${opinion[@]}"
  sase report "$exp" --data "$dump/tt" --out "$exp/report.html"
  echo "$(date '+%F %T') done: to listen, open report.html; the tables are in $PWD/$exp/RESULTS.md"
}
