#!/usr/bin/env bash
# Create or repair the virtual environment that the recipes and the tests use. Running it again changes nothing.
#
#   tools/install.sh [--if-needed]      --if-needed: exit silently if everything is up to date
#
# Environment:
#   SASE_VENV          the virtual environment; created if missing (default: tools/venv)
#   SASE_TORCH_INDEX   address of the package index to take torch from, such as PyTorch's own index of CPU builds, which
#                      are a tenth of the size (default: the index that pip is configured with)
#   SASE_PROGRESS_S    seconds between progress lines (default: 10)
#   PYTHON             the Python to build upon, 3.11 or newer (default: the first suitable one)
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tools")
mkdir -p "$(dirname "${SASE_VENV:-$tools/venv}")"
venv=${SASE_VENV:-$tools/venv}
venv=$(cd "$(dirname "$venv")" && pwd)/$(basename "$venv")
stamp=$venv/.sase-installed
log=$venv/install.log
downloads=$venv/tmp  # where pip downloads to and builds
lock=$venv.lock

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }
state() { cat "$tools"/{install.sh,requirements.txt,constraints.txt} "$root/setup.py" | cksum; }
up_to_date() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(state)" ]; }
has_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >>/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if has_python "$candidate"; then command -v "$candidate"; return; fi
  done
  fail "needs Python 3.11 or newer (flwr does); '${PYTHON:-python3}' is not; name one with PYTHON=..."
}

report_progress() {  # until it is killed: elapsed time, size of the environment with its downloads, pip's latest step
  local megabytes
  set +e # files vanish while they are counted
  while sleep "${SASE_PROGRESS_S:-10}" >>"$log" 2>&1 && kill -0 $$ >>"$log" 2>&1; do
    megabytes=$(du -sm "$venv" 2>>"$log" | cut -f1)
    say "  $SECONDS s, $megabytes MB on disk: $(grep -v '^ *WARNING' "$log" | tail -n 1 | sed 's/^ *//' | cut -c1-90)"
  done
}

pip() {  # pip's output goes to the log; the end of the log is shown on failure
  local reporter status=0
  report_progress 9>&- &
  reporter=$!
  disown "$reporter"
  mkdir -p "$downloads"
  echo "pip $*" >>"$log"
  PIP_CONSTRAINT=$tools/constraints.txt PIP_BUILD_CONSTRAINT=$tools/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    TMPDIR=$downloads "$venv/bin/python" -m pip "$@" >>"$log" 2>&1 9>&- || status=$?
  if kill -0 "$reporter" >>"$log" 2>&1; then kill "$reporter"; fi
  rm -rf "$downloads"
  if [ "$status" != 0 ]; then
    tail -n 20 "$log" >&2
    if ! command -v cc gcc clang >>"$log"; then
      echo "install: no C compiler was found, and pesq is compiled here; install one (Debian: gcc and python3-dev)" >&2
    fi
    fail "pip failed, see $log; what was installed so far is kept, run tools/install.sh again"
  fi
}

announce_torch() {  # by far the largest download
  if [ -n "${SASE_TORCH_INDEX:-}" ]; then
    say "$torch, $torchaudio: from $SASE_TORCH_INDEX (CPU builds: about 0.2 GB to download; CUDA builds: about 3 GB)"
  elif [ "$(uname -s)" = Linux ]; then
    say "$torch, $torchaudio: from pip's index; its usual Linux build needs CUDA libraries, about 3 GB to download"
    say "  without an NVIDIA GPU, stop and set SASE_TORCH_INDEX to PyTorch's index of CPU builds: about 0.2 GB"
  else
    say "$torch, $torchaudio: from pip's index, about 0.2 GB to download"
  fi
}

make_venv() {  # the lock file says "making" until pip is installed: if interrupted before, start from scratch
  local python
  if [ -e "$venv" ] && [ "$(cat "$lock")" != making ]; then
    [ -f "$venv/pyvenv.cfg" ] || fail "$venv exists and is not a virtual environment; choose another one with SASE_VENV"
    has_python "$venv/bin/python" || fail "$venv has a Python older than 3.11; choose another one with SASE_VENV"
    "$venv/bin/python" -m pip --version >>/dev/null || fail "$venv has no pip; install it with 'python -m ensurepip'"
    say "environment $venv: kept"
  else
    python=$(find_python)
    echo making >"$lock"
    "$python" -m venv --clear "$venv" || fail "$python cannot create environments (Debian: install python3-venv)"
    : >"$lock"
    say "environment $venv: created with $("$python" --version)"
  fi
}

drop_partial_packages() {  # a package without RECORD was interrupted: forget it, so that pip installs it again
  local site info
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  for info in "$site"/*.dist-info; do
    if [ -d "$info" ] && [ ! -f "$info/RECORD" ]; then
      rm -r "$info"
      say "$(basename "$info" .dist-info) was installed only in part; installing it again"
    fi
  done
}

repair_torchaudio() {  # its wheel is built for CUDA and fails to load with a CPU build of torch; its Python part works
  "$venv/bin/python" -c 'import torch, sys; sys.exit(torch.version.cuda is not None)' || return 0
  local package
  package=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torchaudio
  if "$venv/bin/python" -c 'import torchaudio' >>"$log" 2>&1; then return 0; fi
  [ -d "$package/lib" ] || fail "torchaudio cannot be imported, and its lib/ is not the cause; see $log"
  rm -rf "$package/lib.cuda"
  mv "$package/lib" "$package/lib.cuda"
  "$venv/bin/python" -c 'import torchaudio' >>"$log" 2>&1 || fail "torchaudio cannot be imported, see $log"
  say "torchaudio: torch is a CPU build, so the CUDA extension was moved to $package/lib.cuda; it imports"
}

import_everything() {
  "$venv/bin/python" - "$tools/requirements.txt" <<'PYTHON'
import importlib, re, sys
names = re.findall(r"^\S+==\S+ +# (\w+):", open(sys.argv[1]).read(), re.M) + ["sase"]
for name in names:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"install: {name} cannot be imported ({error}); remove the environment and run tools/install.sh again")
print(f"install: imports succeed: {' '.join(names)}")
PYTHON
}

case "$*" in
  "") ;;
  --if-needed) if up_to_date; then exit 0; fi ;;
  *) fail "no such option: $*; the only option is --if-needed" ;;
esac

exec 9>>"$lock"
if command -v flock >>/dev/null && ! flock --nonblock 9; then
  say "another installation into $venv is running; waiting for it"
  flock 9
fi
if [ "${1:-}" = --if-needed ] && up_to_date; then exit 0; fi

make_venv
rm -f "$stamp"  # written last, so that an interrupted installation is repeated
: >"$log"
drop_partial_packages
torch=$(grep -o '^torch==[^ ]*' "$tools/requirements.txt")
torchaudio=$(grep -o '^torchaudio==[^ ]*' "$tools/requirements.txt")
say "pip's output goes to $log"
announce_torch
pip install "$torch" "$torchaudio" ${SASE_TORCH_INDEX:+--index-url "$SASE_TORCH_INDEX"}
say "the other packages of tools/requirements.txt: about 0.4 GB to download; pesq is compiled"
pip install -r "$tools/requirements.txt"
repair_torchaudio
pip install --no-deps --no-build-isolation --use-pep517 --editable "$root"
say "sase, from $root"
import_everything
state >"$stamp"
say "done: $venv, $(du -sm "$venv" | cut -f1) MB, in $SECONDS s"
