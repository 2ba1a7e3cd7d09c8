#!/usr/bin/env bash
# The weights that ship with the package: data, training, scores on the VoiceBank+DEMAND test set, card. Run it again
# to resume.
set -euo pipefail

recipe=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=../../../utils/recipe.sh
. "$recipe/../../utils/recipe.sh"
stage=1
stop_stage=4
speech=
noise=
corpus_dir=downloads/voicebank_demand
dev_speakers="p226 p287"
presets="tiny small"
rooms=
generated=12
held_out=
threads=
work_dir=release
out=

help_message="Usage: $0 --speech \"DIR DIR\" --noise \"DIR DIR\" [options]
  --stage N, --stop-stage N  1 data, 2 train, 3 decode and score, 4 weights and cards ($stage, $stop_stage)
  --speech \"A B\"             folders of clean training speech; Common Voice is read by its tables
  --noise \"A B\"              folders of training noise; never DEMAND, which the test set is made of
  --rooms \"A B\"              folders of impulse responses of rooms, for configs with data.recorded_rooms
  --generated N              additional files of each computed noise ($generated)
  --held_out \"A B\"           noises that training must not hear, as patterns of names; conf/held_out_noises lists
                             those of \`sase probe\`
  --corpus_dir DIR           VoiceBank+DEMAND, whose test set is scored ($corpus_dir)
  --dev_speakers \"A B\"       its development speakers; not used here ($dev_speakers)
  --presets \"A B\"           weights to train, with conf/release_PRESET.yaml ($presets); if
                             release_PRESET_1.yaml and so on exist, these come first, each initialised with the
                             result of the previous one
  --nj N, --ngpu N           as for run.sh ($nj, $ngpu)
  --threads N                CPU threads in training (all)
  --work_dir DIR              working folder, relative to the recipe ($work_dir)
  --out DIR                  output folder for weights and cards (the package's own folder)"

# shellcheck source=../../../utils/parse_options.sh
. "$recipe/../../utils/parse_options.sh"

folders() { # folders OPTION "A B": each behind its option
  local folder
  for folder in $2; do printf '%s\n%s\n' "$1" "$(absolute "$folder")"; done
}

[ $# -eq 0 ] || fail "unexpected argument: $1; see --help"
check_stages 1 4
[ -n "${presets// /}" ] || fail "--presets: needs the name of a preset"
mapfile -t sources < <(
  folders --speech "$speech"
  folders --noise "$noise"
  folders --rooms "$rooms"
)
corpus_dir=$(absolute "$corpus_dir")
cd "$recipe"
# shellcheck source=../path.sh
. ./path.sh

if run_stage 1 "data directories and arks in $work_dir"; then
  [ -n "$speech" ] && [ -n "$noise" ] || fail "--speech and --noise are needed"
  sase prepare folders "${sources[@]}" --data "$work_dir/data" --generated "$generated" \
    ${held_out:+--held-out "$held_out"}
  sase prepare voicebank_demand --corpus "$corpus_dir" --data "$work_dir/test" --dev-speakers "$dev_speakers"
  for set in data/tr data/cv test/tt; do
    keep=()
    if [ $set = test/tt ]; then keep=(--keep-all); fi
    sase dump --data "$work_dir/$set" --out "$work_dir/dump/$(basename "$set")" --nj "$nj" "${keep[@]}"
  done
fi

for preset in $presets; do
  exp=$work_dir/exp/$preset
  if run_stage 2 "train $exp"; then
    begin=()
    for config in conf/release_"$preset"_[1-9].yaml "conf/release_$preset.yaml"; do
      [[ $config != *\[* ]] || continue # there are none
      trained=$(basename "$config" .yaml)
      trained=$work_dir/exp/${trained#release_}
      sase train --config "$config" --train-set "$work_dir/dump/tr" --dev-set "$work_dir/dump/cv" --exp "$trained" \
        --ngpu "$ngpu" ${threads:+--threads "$threads"} "${begin[@]}"
      begin=(--set "init=$trained")
    done
  fi
  if run_stage 3 "enhance and score with $exp"; then
    sase decode --model "$exp/best.pt" --data "$work_dir/dump/tt" --out "$exp/enhanced_tt" --nj "$nj"
    sase score --data "$work_dir/dump/tt" --enhanced "$exp/enhanced_tt" --out "$exp/enhanced_tt/scoring" --nj "$nj"
  fi
  if run_stage 4 "weights and card of $preset"; then
    sase release --exp "$exp" --scores "$exp/enhanced_tt/scoring" --name "$preset" --notes conf/release_notes.md \
      ${out:+--out "$out"}
  fi
done
