#!/usr/bin/env bash
# Check a data directory: utils/validate_data_dir.sh [options of `sase validate`] data/tr
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
python=${SASE_VENV:-$root/tools/venv}/bin/python
[ -x "$python" ] || { echo "$0: there is no environment yet; run tools/install.sh first" >&2; exit 1; }
exec "$python" -m sase.bin.validate "$@"
