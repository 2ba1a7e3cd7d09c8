#!/usr/bin/env bash
# What gates, attention and losses are worth: the rows and seeds of conf/ablation.yaml; finished runs are skipped.
set -euo pipefail
recipe=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$recipe/../.." && pwd)
# shellcheck source=../../../utils/signals.sh
. "$root/utils/signals.sh"

corpus_dir=
train_set=dump/tr
dev_set=dump/cv
test_set=dump/tt
settings=$recipe/conf/ablation.yaml
out=exp/ablation
rows=
ngpu=0
nj=$(getconf _NPROCESSORS_ONLN)

help_message="Usage: $0 [options]
  --corpus_dir DIR  VoiceBank+DEMAND, if it is not dumped yet: your own copy (else it is downloaded)
  --train_set DUMP  to train on ($train_set); the three sets are seen from the recipe
  --dev_set DUMP    validates each training's epochs, and is scored ($dev_set)
  --test_set DUMP   is scored ($test_set)
  --settings FILE   YAML file: rows, seeds, network, steps (conf/ablation.yaml)
  --out DIR         where trainings, RESULTS.md, images and summary.json go, seen from the recipe ($out)
  --rows \"A;B\"      only these rows of FILE, separated by semicolons (all)
  --ngpu N          1 to train on a graphics card ($ngpu)
  --nj N            jobs of stage 2 ($nj)"
# shellcheck source=../../../utils/parse_options.sh
. "$root/utils/parse_options.sh"
[ $# -eq 0 ] || { echo "$0: unexpected argument: $1; see --help" >&2; exit 1; }

settings=$(realpath "$settings")
corpus=()
if [ -n "$corpus_dir" ]; then corpus+=(--corpus_dir "$(realpath "$corpus_dir")"); fi
wanted=()
IFS=';' read -ra names <<<"$rows"
for name in "${names[@]}"; do wanted+=(--row "$name"); done

cd "$recipe"
# shellcheck source=../path.sh
. ./path.sh
if [ ${#corpus[@]} -gt 0 ] || [ ! -f "$train_set/wav.scp" ]; then
  foreground ./run.sh --stage 0 --stop-stage 2 --nj "$nj" "${corpus[@]}"
fi
sase ablation --config "$settings" --train-set "$train_set" --dev-set "$dev_set" --test-set "$test_set" --out "$out" \
  --ngpu "$ngpu" "${wanted[@]}"
