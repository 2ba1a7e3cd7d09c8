#!/usr/bin/env bash
# Let some silos of a federation send harmful replies, under every way of combining updates; finished runs are skipped.
set -euo pipefail
recipe=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$recipe/../.." && pwd)

cv_dir=
noise_dir=
settings=$recipe/conf/poisoned_silos.yaml
out=exp/poisoned_silos
nj=$(getconf _NPROCESSORS_ONLN)

help_message="Usage: $0 [options]
  --cv_dir DIR      Common Voice, one language as published: train.tsv, dev.tsv, test.tsv, clips/ (downloads/zh-CN)
  --noise_dir DIR   NOISEX-92 as .wav or .mat files, or any other noises (downloads/noisex92)
  --settings FILE   YAML file: federations, rows, seeds, network, rounds (conf/poisoned_silos.yaml)
  --out DIR         where the trainings and RESULTS.md go, seen from the recipe ($out)
  --nj N            jobs of stage 2 ($nj)"
# shellcheck source=../../../utils/parse_options.sh
. "$root/utils/parse_options.sh"
[ $# -eq 0 ] || { echo "$0: unexpected argument: $1; see --help" >&2; exit 1; }

settings=$(realpath "$settings")
corpus=()
if [ -n "$cv_dir" ]; then corpus+=(--cv_dir "$(realpath "$cv_dir")"); fi
if [ -n "$noise_dir" ]; then corpus+=(--noise_dir "$(realpath "$noise_dir")"); fi

cd "$recipe"
# shellcheck source=../path.sh
. ./path.sh
if [ ! -f dump/tr/wav.scp ] || [ ${#corpus[@]} -gt 0 ]; then
  ./run.sh --stage 0 --stop-stage 2 --nj "$nj" "${corpus[@]}"
fi
sase partition --train dump/tr --out dump/silos/silo_4 --by silo --num-silos 4
sase partition --train dump/tr --out dump/silos/dirichlet_16 --by dirichlet --alpha 5 --num-silos 16
sase poisoning --config "$settings" --silos dump/silos --dev-set dump/cv --out "$out"
