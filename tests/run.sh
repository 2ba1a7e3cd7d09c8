#!/usr/bin/env bash
# Run the tests, after setting up the environment if it is missing or out of date.
#
#   tests/run.sh                everything but the slow tests: also the recipes end to end (about half an hour on 2 cores)
#   tests/run.sh unit           the quick tests (two minutes)
#   tests/run.sh slow           the stages on 100,000 utterances, run by hand
#   tests/run.sh fuzz 3600      mutated files for every reader, for about so many seconds (default: 60)
#   tests/run.sh lint           ruff and mypy; the first run above includes both, the others ruff
#   tests/run.sh unit -k dump   further arguments go to pytest
#
# SASE_TEST_DATA names a folder with real noisy and clean speech; without it the tests that need it are skipped.
# SASE_TEST_WORKERS sets the number of pytest processes (default: 2; for everything 4, since many tests wait).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${SASE_TEST_DATA:-}" ]; then
  SASE_TEST_DATA=$(cd "$SASE_TEST_DATA" && pwd)
  export SASE_TEST_DATA
fi
"$root/tools/install.sh" --if-needed
workers=2
case "${1:-}" in
  unit) shift; selection="not recipe and not slow and not fuzz" ;;
  slow) shift; selection=slow ;;
  fuzz)
    shift
    selection=fuzz
    if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
      export SASE_FUZZ_SECONDS=$1
      shift
    fi
    ;;
  lint) shift; selection= ;;
  *) selection="not slow" workers=4 ;;
esac
venv=$(cd "${SASE_VENV:-$root/tools/venv}" && pwd)
export SASE_VENV=$venv PATH=$venv/bin:$PATH PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the networks of the tests are too small for several threads
cd "$root"
ruff check .
ruff format --check .
if [ -z "$selection" ]; then
  mypy
  exit
fi

# Beside the tests, whose processes do not end together: without its cache, mypy takes half as long as the quick ones.
report=$(mktemp)
mypy=
trap '[ -z "$mypy" ] || kill "$mypy"; rm -f "$report"' EXIT
if [ "$selection" = "not slow" ]; then
  mypy >"$report" 2>&1 &
  mypy=$!
fi
# Plugins are named, since pytest would rewrite all modules of every package that has one, hypothesis among them.
plugins=(--disable-plugin-autoload -p xdist -p hypothesispytest)
dist=(--numprocesses "${SASE_TEST_WORKERS:-$workers}" --dist loadfile --no-loadscope-reorder)
status=0
python -m pytest "${plugins[@]}" "${dist[@]}" -m "$selection" "$@" || status=$?
if [ -n "$mypy" ]; then
  wait "$mypy" || status=1
  mypy=
  cat "$report"
fi
exit "$status"
