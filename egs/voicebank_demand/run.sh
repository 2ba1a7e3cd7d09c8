#!/usr/bin/env bash
# VoiceBank+DEMAND from download to table. Every stage can be run alone, again, and after having been killed.
set -euo pipefail

stage=0
stop_stage=5
corpus_dir=
mini=false
nj=$(getconf _NPROCESSORS_ONLN)
ngpu=0
seed=0
tag=
dev_speakers="p226 p287"
train_config=
train_args=
fl=false
num_clients=4

help_message="Usage: $0 [options]
  --stage N, --stop-stage N   first and last stage to run ($stage, $stop_stage):
                              0 download, 1 data, 2 dump, 3 train, 4 decode, 5 score
  --corpus_dir DIR            your own copy of the corpus; nothing is downloaded
  --mini true|false           a small generated corpus, offline; all that comes of it is in mini/ ($mini)
  --nj N                      jobs of stages 2, 4 and 5: as many as there are cores ($nj)
  --ngpu N                    graphics cards to train on, 0: the processor ($ngpu)
  --seed N                    of the training, and of the mini corpus ($seed)
  --tag NAME                  name of the experiment, exp/NAME (the configuration's name and what --train_args changes)
  --dev_speakers \"A B\"        speakers kept for development ($dev_speakers)
  --train_config FILE         YAML file (conf/train_small.yaml; with --mini true conf/train_mini.yaml)
  --train_args \"...\"          more options for 'sase train', such as \"--set train.lr=1e-4\"
  --fl true|false             federated training: not in this version ($fl)
  --num_clients N             silos of federated training ($num_clients)
  --config FILE               a shell file that sets any of these"

recipe=$(cd "$(dirname "$0")" && pwd)
command="cd $(printf '%q' "$PWD") && $(printf '%q ' "$recipe/run.sh" "$@")"
# shellcheck source=../../utils/parse_options.sh
. "$recipe/../../utils/parse_options.sh"

fail() {
  echo "$0: $*" >&2
  exit 1
}
run_stage() { # run_stage NUMBER NAME: true when the stage is one of those to run
  ((stage <= $1 && $1 <= stop_stage)) || return 1
  echo "$(date '+%F %T') stage $1: $2"
}
run_jobs() { # run_jobs RUNNER LOG command...: its nj shards, then what joins them
  local runner=$1 log=$2
  shift 2
  # shellcheck disable=SC2086  # a runner may bring options
  $runner JOB=1:"$nj" "$log" "$@" --nj "$nj" --job JOB
  "$@" --nj "$nj" --finish
}
absolute() { # absolute FILE: as seen from here, or else from the recipe's folder
  case $1 in
    /*) echo "$1" ;;
    *) if [ ! -e "$1" ] && [ -e "$recipe/$1" ]; then echo "$recipe/$1"; else echo "$PWD/$1"; fi ;;
  esac
}

[ $# -eq 0 ] || fail "no such argument: $1; --help names the options"
((stage <= stop_stage)) || fail "--stage $stage comes after --stop-stage $stop_stage"
((nj >= 1)) || fail "--nj must be 1 or more, not $nj"
if $fl; then fail "federated training is not in this version; leave --fl out"; fi
if $mini && [ -n "$corpus_dir" ]; then fail "--mini true generates a corpus, --corpus_dir names one; choose"; fi

if $mini; then work=mini/ corpus=mini preset=mini; else work='' corpus=voicebank_demand preset=small; fi
if [ -n "$corpus_dir" ]; then corpus=own corpus_dir=$(absolute "$corpus_dir"); else corpus_dir=downloads/$corpus; fi
train_config=$(absolute "${train_config:-conf/train_$preset.yaml}")
read -ra train_args <<<"$train_args"
if [ -z "$tag" ]; then
  tag=$(basename "$train_config" .yaml)
  for word in "${train_args[@]}"; do
    case $word in *=*) tag+=_$(sed 's/^[^=]*\.//; s/=//; s/[^[:alnum:].+-]/_/g' <<<"$word") ;; esac
  done
  if [ "$seed" != 0 ]; then tag+=_seed$seed; fi
fi

cd "$recipe"
# shellcheck source=path.sh
. ./path.sh
# shellcheck source=cmd.sh
. ./cmd.sh
data=${work}data dump=${work}dump exp=${work}exp/$tag
enhanced=$exp/enhanced_tt

if run_stage 0 "download"; then
  case $corpus in
    own) echo "your own copy is used: $corpus_dir" ;;
    mini) sase download mini --dir "$corpus_dir" --seed "$seed" ;;
    *) sase download voicebank_demand --dir "$corpus_dir" ;;
  esac
fi

if run_stage 1 "data directories from $corpus_dir"; then
  sase prepare voicebank_demand --corpus "$corpus_dir" --data "$data" --dev-speakers "$dev_speakers"
fi

if run_stage 2 "dump to $dump"; then
  for set in tr cv tt; do
    keep=()
    if [ $set = tt ]; then keep=(--keep-all); fi # no test utterance is ever left out
    run_jobs "$train_cmd" "$dump/$set/logs/dump.JOB.log" \
      sase dump --data "$data/$set" --out "$dump/$set" "${keep[@]}"
  done
fi

if run_stage 3 "train $exp with $train_config"; then
  mkdir -p "$exp"
  again=$exp/run.sh # replaced, never written into: it may be what is running now
  printf '#!/usr/bin/env bash\n# This made the experiment; options may follow.\n%s "$@"\n' "$command" >"$again.partial"
  chmod +x "$again.partial"
  mv "$again.partial" "$again"
  sase train --config "$train_config" --train-set "$dump/tr" --dev-set "$dump/cv" --exp "$exp" \
    --seed "$seed" --ngpu "$ngpu" "${train_args[@]}"
fi

if run_stage 4 "enhance the test set into $enhanced"; then
  run_jobs "$decode_cmd" "$enhanced/logs/decode.JOB.log" \
    sase decode --model "$exp/best.pt" --data "$dump/tt" --out "$enhanced"
fi

if run_stage 5 "score"; then
  run_jobs "$decode_cmd" "$enhanced/scoring/logs/score.JOB.log" \
    sase score --data "$dump/tt" --enhanced "$enhanced" --out "$enhanced/scoring"
  echo "$(date '+%F %T') done: the tables are in $PWD/$exp/RESULTS.md"
fi
