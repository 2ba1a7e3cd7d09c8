#!/usr/bin/env bash
# Compare ways of training in four silos, each with its own speakers and noises; finished runs are skipped.
set -euo pipefail
recipe=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$recipe/../.." && pwd)
# shellcheck source=../../../utils/signals.sh
. "$root/utils/signals.sh"

cv_dir=
noise_dir=
settings=$recipe/conf/compare_strategies.yaml
out=exp/compare_strategies
rows=
nj=$(getconf _NPROCESSORS_ONLN)

help_message="Usage: $0 [options]
  --cv_dir DIR      Common Voice, one language as published: train.tsv, dev.tsv, test.tsv, clips/ (downloads/zh-CN)
  --noise_dir DIR   NOISEX-92 as .wav or .mat files, or any other noises (downloads/noisex92)
  --settings FILE   YAML file: rows, seeds, network, rounds (conf/compare_strategies.yaml)
  --out DIR         where the trainings, RESULTS.md and images/ go, seen from the recipe ($out)
  --rows \"A;B\"      only these rows of FILE, separated by semicolons (all)
  --nj N            jobs of stage 2 ($nj)"
# shellcheck source=../../../utils/parse_options.sh
. "$root/utils/parse_options.sh"
[ $# -eq 0 ] || { echo "$0: unexpected argument: $1; see --help" >&2; exit 1; }

settings=$(realpath "$settings")
corpus=()
if [ -n "$cv_dir" ]; then corpus+=(--cv_dir "$(realpath "$cv_dir")"); fi
if [ -n "$noise_dir" ]; then corpus+=(--noise_dir "$(realpath "$noise_dir")"); fi
wanted=()
IFS=';' read -ra names <<<"$rows"
for name in "${names[@]}"; do wanted+=(--row "$name"); done

cd "$recipe"
# shellcheck source=../path.sh
. ./path.sh
if [ ! -f dump/tr/wav.scp ] || [ ! -f dump/tt/wav.scp ] || [ ${#corpus[@]} -gt 0 ]; then
  foreground ./run.sh --stage 0 --stop-stage 2 --nj "$nj" "${corpus[@]}"
fi
sase partition --train dump/tr --test dump/tt --out dump/silos/silo_4 --by silo --num-silos 4
sase compare --config "$settings" --silos dump/silos/silo_4 --dev-set dump/cv --test-set dump/tt --out "$out" \
  "${wanted[@]}"
