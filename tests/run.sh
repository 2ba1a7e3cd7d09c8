#!/usr/bin/env bash
# Run the tests, in an environment that is set up first where it is missing or out of date.
#
#   tests/run.sh                all of them: the recipe end to end as well (up to 40 minutes on 2 cores)
#   tests/run.sh unit           the quick ones (under 2 minutes)
#   tests/run.sh unit -k dump   what follows goes to pytest
#
# SASE_TEST_DATA names a folder with real noisy and clean speech; the tests that want it are skipped without.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${SASE_TEST_DATA:-}" ]; then
  SASE_TEST_DATA=$(cd "$SASE_TEST_DATA" && pwd)
  export SASE_TEST_DATA
fi
"$root/tools/install.sh" --if-needed
selection=()
if [ "${1:-}" = unit ]; then
  selection=(-m "not recipe")
  shift
fi
venv=$(cd "${SASE_VENV:-$root/tools/venv}" && pwd)
export SASE_VENV=$venv PATH=$venv/bin:$PATH PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the networks of the tests are too small to share between cores
cd "$root"
exec python -m pytest "${selection[@]}" "$@"
