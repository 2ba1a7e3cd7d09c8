#!/usr/bin/env bash
# VoiceBank+DEMAND from download to table. Every stage can be run alone, repeated, and resumed after a kill.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=../../utils/recipe.sh
. "$root/utils/recipe.sh"

corpus_dir=
dev_speakers="p226 p287"
fl_partition=speaker

help_message="Usage: $0 [options]
  --corpus_dir DIR            existing copy of the corpus, instead of a download
  --dev_speakers \"A B\"        speakers of the development set ($dev_speakers)
$recipe_help
The default of --fl_partition is $fl_partition. --seed also seeds the mini corpus."
# shellcheck source=../../utils/parse_options.sh
. "$root/utils/parse_options.sh"

if $mini && [ -n "$corpus_dir" ]; then fail "--mini true and --corpus_dir exclude each other"; fi
if $mini; then corpus=mini; else corpus=voicebank_demand; fi
if [ -n "$corpus_dir" ]; then corpus=own corpus_dir=$(absolute "$corpus_dir"); else corpus_dir=downloads/$corpus; fi
settle_recipe "$@"

if run_stage 0 "download"; then
  case $corpus in
    own) echo "using your copy: $corpus_dir" ;;
    mini) sase download mini --dir "$corpus_dir" --seed "$seed" ;;
    *) sase download voicebank_demand --dir "$corpus_dir" ;;
  esac
fi

if run_stage 1 "data directories from $corpus_dir"; then
  sase prepare voicebank_demand --corpus "$corpus_dir" --data "$data" --dev-speakers "$dev_speakers" \
    "${bad_test[@]}"
fi

if run_stage 2 "dump to $dump"; then dump_sets; fi
if run_stage 3 "train $exp with $train_config"; then train; fi
if run_stage 4 "enhance the test set into $enhanced"; then decode; fi
if run_stage 5 "score"; then score; fi
