# Sourced by run.sh: installs missing requirements, and puts `sase` and the scripts of utils/ on the PATH.
# SASE_VENV: a virtual environment to use instead of tools/venv.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
"$root/tools/install.sh" --if-needed
venv=$(cd "${SASE_VENV:-$root/tools/venv}" && pwd)
export SASE_VENV=$venv
export PATH=$root/utils:$venv/bin:$PATH
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # this checkout, even if the environment was created for another
export LC_ALL=C PYTHONUTF8=1 PYTHONUNBUFFERED=1
if [ -f local/path.sh ]; then
  # shellcheck disable=SC1091
  . ./local/path.sh
fi
