#!/usr/bin/env bash
# Common Voice under NOISEX-92, from corpus to table. Every stage can be run alone, repeated, and resumed after a kill.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=../../utils/recipe.sh
. "$root/utils/recipe.sh"

cv_dir=
noise_dir=
data_seed=0
fl_partition=silo

help_message="Usage: $0 [options]
  --cv_dir DIR                Common Voice, one language as published: train.tsv, dev.tsv, test.tsv, clips/
                              (downloads/zh-CN)
  --noise_dir DIR             NOISEX-92 as .wav or .mat files, or other noises (downloads/noisex92)
  --data_seed N               random seed of the mixtures and of the mini corpus ($data_seed)
$recipe_help
The default of --fl_partition is $fl_partition: stage 1 gives each of the --num_clients silos
its own speakers, noises and SNRs, and makes each twice as large as the one before."
# shellcheck source=../../utils/parse_options.sh
. "$root/utils/parse_options.sh"

if $mini && [ -n "$cv_dir$noise_dir" ]; then
  fail "--mini true excludes --cv_dir and --noise_dir"
fi
cv_dir=$(absolute "$cv_dir") noise_dir=$(absolute "$noise_dir")
if $mini; then cv_dir=downloads/mini/zh-CN noise_dir=downloads/mini/noise; fi
: "${cv_dir:=downloads/zh-CN}" "${noise_dir:=downloads/noisex92}"
settle_recipe "$@"

if run_stage 0 "speech and noises"; then
  if $mini; then sase download mini --language mandarin --dir downloads/mini --seed "$data_seed"; fi
  sase download commonvoice --dir "$cv_dir"
  sase download noisex92 --dir "$noise_dir"
fi

if run_stage 1 "lists of mixtures of $cv_dir and $noise_dir"; then
  sase prepare commonvoice --corpus "$cv_dir" --noise "$noise_dir" --data "$data" \
    --silos "$num_clients" --seed "$data_seed" "${bad_test[@]}"
fi

if run_stage 2 "dump to $dump"; then dump_sets; fi
if run_stage 3 "train $exp with $train_config"; then train; fi
if run_stage 4 "enhance the test set into $enhanced"; then decode; fi
if run_stage 5 "score"; then score; fi
