#!/usr/bin/env bash
# Failures of a federation, with real processes on the generated corpus: a silo is killed and restarted, then the
# server is. The result is compared with that of a federation without failures.
set -euo pipefail
recipe=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$recipe/../.." && pwd)

undisturbed=train_mini_fl4_silo
port=18200
nj=$(getconf _NPROCESSORS_ONLN)

help_message="Usage: $0 [options]
  --undisturbed TAG   a federation without failures, of ./run.sh --mini true --fl true; run if missing ($undisturbed)
  --port N            port of the server ($port)
  --nj N              jobs of stages 2, 4 and 5 ($nj)"
# shellcheck source=../../../utils/parse_options.sh
. "$root/utils/parse_options.sh"
[ $# -eq 0 ] || { echo "$0: unexpected argument: $1; see --help" >&2; exit 1; }

cd "$recipe"
tag=bad_days
exp=mini/exp/$tag
logs=$exp/logs
declare -A pids=()

start() { # start NAME COMMAND...: in its own process group
  setsid "${@:2}" >>"$logs/$1.log" 2>&1 &
  pids[$1]=$!
}

kill_group() { # kill_group NAME: as the kernel does when out of memory
  local pid=${pids[$1]}
  unset "pids[$1]"
  kill -KILL -- "-$pid"
  if wait "$pid" 2>/dev/null; then echo "$1 had already exited" >&2; exit 1; fi
}

silo() { start "silo$1" ./run-client.sh --silo "$1" --data_dir "mini/dump/silos/silo_4/silo$1" --threads 1 \
  --server "localhost:$port" --certificates "$exp/certificates" --state_dir "$exp/silos/silo$1"; }

server() { start server ./run-server.sh --mini true --tag $tag --num_clients 4 --port "$port" --hosts localhost \
  --certificates "$exp/certificates"; }

wait_for_round() { # wait_for_round N [WHAT NEXT]
  until [ -f "$exp/rounds.jsonl" ] && [ "$(wc -l <"$exp/rounds.jsonl")" -ge "$1" ]; do
    kill -0 "${pids[server]}" 2>/dev/null || { echo "the server has exited: see $recipe/$logs/server.log" >&2; exit 1; }
    sleep 0.2
  done
  echo "$(date '+%F %T') round $1 is done${2:+; $2}"
}

scores() { # scores TAG: its row of the table
  python -c "
import json, sys
mean = json.load(open('mini/exp/$1/enhanced_tt/scoring/summary.json'))['mean']
rounds = [json.loads(line) for line in open('mini/exp/$1/rounds.jsonl')]
absent = sum(4 - len(entry['silos']) for entry in rounds)
print(f\"| {'$1'} | {len(rounds)} | {absent} | {mean['SI_SDR']:.2f} | {mean['PESQ_WB']:.3f} | {mean['STOI']:.4f} |\")"
}

# shellcheck source=../path.sh
. ./path.sh
if [ ! -f "mini/exp/$undisturbed/enhanced_tt/scoring/summary.json" ]; then
  ./run.sh --mini true --fl true --num_clients 4 --nj "$nj" --tag "$undisturbed"
fi
rm -rf "$exp"
mkdir -p "$logs"
trap 'for pid in "${pids[@]}"; do if kill -0 "$pid" 2>/dev/null; then kill -TERM -- "-$pid"; fi; done' EXIT
server
until [ -f "$exp/certificates/silo3/silo.key" ]; do sleep 0.2; done
for k in 0 1 2 3; do silo "$k"; done
wait_for_round 4 "silo 2 is killed"
kill_group silo2
wait_for_round 7 "silo 2 is restarted"
silo 2
wait_for_round 12 "the server is killed and restarted"
kill_group server
server
for name in server silo0 silo1 silo2 silo3; do
  wait "${pids[$name]}" || { echo "$name exited with status $?: see $recipe/$logs/$name.log" >&2; exit 1; }
  unset "pids[$name]"
done
./run.sh --mini true --stage 4 --tag $tag --nj "$nj" >"$logs/scoring.log"
echo "| federation | rounds | silos missing in a round | SI_SDR (dB) | PESQ_WB | STOI |"
echo "|---|---:|---:|---:|---:|---:|"
scores "$undisturbed"
scores $tag
