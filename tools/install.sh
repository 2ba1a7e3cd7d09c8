#!/usr/bin/env bash
# Make the virtual environment that the recipes and the tests run in, or mend it; run again, it changes nothing.
#
#   tools/install.sh [--if-needed]      --if-needed: be quick and silent when all is up to date
#
# Environment:
#   SASE_VENV         the virtual environment to use; made when it is not there (default: tools/venv)
#   SASE_TORCH_INDEX  address of the package index that torch is taken from, such as PyTorch's own index of CPU builds,
#                     which are a tenth of the size (default: the index that pip is configured with)
#   PYTHON            the Python to build upon, 3.11 or newer (default: the first that fits)
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tools")
mkdir -p "$(dirname "${SASE_VENV:-$tools/venv}")"
venv=${SASE_VENV:-$tools/venv}
venv=$(cd "$(dirname "$venv")" && pwd)/$(basename "$venv")
stamp=$venv/.sase-installed
log=$venv/install.log
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

pip() {  # what pip says goes to the log; its end is shown when it fails
  PIP_CONSTRAINT=$tools/constraints.txt PIP_BUILD_CONSTRAINT=$tools/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$venv/bin/python" -m pip "$@" >>"$log" 2>&1 9>&- || {
    tail -n 20 "$log" >&2
    if ! command -v cc gcc clang >>"$log"; then
      echo "install: no C compiler was found, and pesq is compiled here; install one (Debian: gcc and python3-dev)" >&2
    fi
    fail "pip failed, see $log; what was installed so far is kept, run tools/install.sh again"
  }
}

make_venv() {  # the lock file says "making" from the first moment until pip is in: cut off in between, all is made anew
  local python
  if [ -e "$venv" ] && [ "$(cat "$lock")" != making ]; then
    [ -f "$venv/pyvenv.cfg" ] || fail "$venv is there and is no virtual environment; name another with SASE_VENV"
    has_python "$venv/bin/python" || fail "$venv has a Python older than 3.11; name another with SASE_VENV"
    "$venv/bin/python" -m pip --version >>/dev/null || fail "$venv has no pip; put it there with 'python -m ensurepip'"
    say "environment $venv, as it was"
  else
    python=$(find_python)
    echo making >"$lock"
    "$python" -m venv --clear "$venv" || fail "$python cannot make environments (Debian: install python3-venv)"
    : >"$lock"
    say "environment $venv, made with $("$python" --version)"
  fi
}

drop_half_packages() {  # pip was killed in the middle of what has no RECORD: forget that, so that pip lays it anew
  local site info
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  for info in "$site"/*.dist-info; do
    if [ -d "$info" ] && [ ! -f "$info/RECORD" ]; then
      rm -r "$info"
      say "$(basename "$info" .dist-info) was half installed; laying it anew"
    fi
  done
}

mend_torchaudio() {  # its wheel is built for CUDA and cannot be loaded beside a CPU build of torch; the Python part can
  "$venv/bin/python" -c 'import torch, sys; sys.exit(torch.version.cuda is not None)' || return 0
  local package
  package=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torchaudio
  if "$venv/bin/python" -c 'import torchaudio' >>"$log" 2>&1; then return 0; fi
  [ -d "$package/lib" ] || fail "torchaudio cannot be imported, and its lib/ is not the cause; see $log"
  rm -rf "$package/lib.cuda"
  mv "$package/lib" "$package/lib.cuda"
  "$venv/bin/python" -c 'import torchaudio' >>"$log" 2>&1 || fail "torchaudio cannot be imported, see $log"
  say "torchaudio: CPU torch, so its CUDA extension was put aside in $package/lib.cuda; it imports"
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
print(f"install: all of it imports: {' '.join(names)}")
PYTHON
}

case "$*" in
  "") ;;
  --if-needed) if up_to_date; then exit 0; fi ;;
  *) fail "no such option: $*; there is --if-needed" ;;
esac

exec 9>>"$lock"
if command -v flock >>/dev/null && ! flock --nonblock 9; then
  say "another installation into $venv is under way; waiting for it"
  flock 9
fi
if [ "${1:-}" = --if-needed ] && up_to_date; then exit 0; fi

make_venv
rm -f "$stamp"  # written last: an installation that was cut off is done again
: >"$log"
drop_half_packages
torch=$(grep -o '^torch==[^ ]*' "$tools/requirements.txt")
torchaudio=$(grep -o '^torchaudio==[^ ]*' "$tools/requirements.txt")
say "$torch, $torchaudio (the largest; what pip says goes to $log)"
pip install "$torch" "$torchaudio" ${SASE_TORCH_INDEX:+--index-url "$SASE_TORCH_INDEX"}
say "the other packages of tools/requirements.txt"
pip install -r "$tools/requirements.txt"
mend_torchaudio
pip install --no-deps --no-build-isolation --use-pep517 --editable "$root"
say "sase, from $root"
import_everything
state >"$stamp"
say "done: $venv"
