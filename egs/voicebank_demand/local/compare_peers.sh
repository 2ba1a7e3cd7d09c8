#!/usr/bin/env bash
# Other packages and ours side by side, on any dumped test set: scores, DNSMOS and time on one thread, in one run.
set -euo pipefail
recipe=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$recipe/../.." && pwd)
# shellcheck source=../../../utils/signals.sh
. "$root/utils/signals.sh"

test_set=dump/tt
peers="deepfilternet rnnoise webrtc nsnet2 noisereduce"
models="tiny small"
dnsmos=true
python=python3
out=exp/peers
nj=$(getconf _NPROCESSORS_ONLN)

help_message="Usage: $0 [options]
  --test_set DUMP     the dumped set, seen from the recipe ($test_set)
  --peers \"A B\"       packages of local/peers.py ($peers)
  --models \"A B\"      weights of ours: names, files or experiment folders ($models)
  --dnsmos true|false DNSMOS besides the other measures ($dnsmos)
  --python PYTHON     the interpreter of the packages' virtual environment, which is made in OUT/venv from
                      local/peers.txt, 1 GB, on the first run ($python)
  --out DIR           where everything goes, seen from the recipe; OUT/PEERS.md is the table ($out)
  --nj N              jobs that score ($nj)"
# shellcheck source=../../../utils/parse_options.sh
. "$root/utils/parse_options.sh"
[ $# -eq 0 ] || { echo "$0: unexpected argument: $1; see --help" >&2; exit 1; }

cd "$recipe"
# shellcheck source=../path.sh
. ./path.sh
[ -f "$test_set/wav.scp" ] || { echo "$0: $test_set: no dumped set; run stages 0 to 2 first" >&2; exit 1; }

if [ -n "${peers// /}" ] || $dnsmos; then
  if [ ! -f "$out/venv/.installed" ]; then
    "$python" -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet --requirement local/peers.txt
    touch "$out/venv/.installed"
  fi
fi

opinion() { # opinion TABLE OUT: DNSMOS of the signals of a table
  if $dnsmos && [ ! -f "$2/DNSMOS_OVRL" ]; then "$out/venv/bin/python" local/dnsmos.py "$1" "$2"; fi
}

if [ -z "${peers// /}${models// /}" ]; then
  echo "$0: --peers or --models must name a system" >&2
  exit 1
fi
folders=()
opinion "$test_set/wav.scp" "$out/unprocessed"
systems=()
for name in $peers; do systems+=("$name"); done
for name in $models; do systems+=("sase:$name"); done
for system in "${systems[@]}"; do
  folder=$out/$(tr -c '[:alnum:]\n' _ <<<"$system")
  interpreter=$out/venv/bin/python
  if [[ $system = sase:* ]]; then interpreter=python; fi
  if [ ! -f "$folder/spk1.scp" ]; then
    foreground "$interpreter" local/peers.py "$system" "$test_set" "$folder"
  fi
  foreground sase score --data "$test_set" --enhanced "$folder" --out "$folder/scoring" --results "$folder" --nj "$nj"
  opinion "$folder/spk1.scp" "$folder/scoring"
  folders+=("$folder")
done

mkdir -p "$out/unprocessed"
for scores in "$test_set/scoring_unprocessed" "${folders[0]}/scoring/scoring_unprocessed"; do # the other if read-only
  if [ -f "$scores/PESQ_WB" ]; then find "$scores" -maxdepth 1 -type f -exec cp {} "$out/unprocessed/" \; && break; fi
done
python local/peers_table.py "$out/unprocessed" "${folders[@]}" | tee "$out/PEERS.md"
