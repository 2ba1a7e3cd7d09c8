#!/usr/bin/env bash
# Measure what one update of a silo reveals of its audio, with and without clipping, noise and masks.
set -euo pipefail
recipe=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$recipe/../.." && pwd)

data=dump/tr
out=exp/leakage
steps=40
segment_s=0.25

help_message="Usage: $0 [options]
  --data DUMP       the audio, a dump directory, seen from the recipe ($data)
  --out DIR         for the numbers, the figure and RESULTS.md, seen from the recipe ($out)
  --steps N         of each inversion ($steps)
  --segment_s S     seconds of audio in a training step ($segment_s)"
# shellcheck source=../../../utils/parse_options.sh
. "$root/utils/parse_options.sh"
[ $# -eq 0 ] || { echo "$0: unexpected argument: $1; see --help" >&2; exit 1; }

cd "$recipe"
# shellcheck source=../path.sh
. ./path.sh
[ -f "$data/wav.scp" ] || { echo "$0: $data: no dump; run ./run.sh --stage 0 --stop-stage 2 first" >&2; exit 1; }
# Without the objectives that need longer segments.
sase leakage --config conf/train_tiny.yaml --set data.segment_s="$segment_s" --set train.precision=float32 \
  --set "loss={compressed_spectral: 30.0, si_snr: 0.1}" --data "$data" --out "$out" --steps "$steps"
