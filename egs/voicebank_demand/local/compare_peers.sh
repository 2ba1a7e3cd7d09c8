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

if [ -n "${peers// /}" ]; then
  if [ ! -f "$out/venv/.installed" ]; then
    "$python" -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet --requirement local/peers.txt
    touch "$out/venv/.installed"
  fi
fi

opinion=()
if $dnsmos; then opinion=(--dnsmos); fi

if [ -z "${peers// /}${models// /}" ]; then
  echo "$0: --peers or --models must name a system" >&2
  exit 1
fi
folders=()
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
  foreground sase score --data "$test_set" --enhanced "$folder" --out "$folder/scoring" --results "$folder" --nj "$nj" \
    --unprocessed "$out/unprocessed" "${opinion[@]}"
  folders+=("$folder")
done

python local/peers_table.py "$out/unprocessed" "${folders[@]}" | tee "$out/PEERS.md"
