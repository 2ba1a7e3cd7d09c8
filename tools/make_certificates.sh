#!/usr/bin/env bash
# Certificates and keys of a federation: an authority of its own, the server's certificate, a key for every silo.
#
#   tools/make_certificates.sh --out DIR --hosts "fl.example.org 10.0.0.5" --silos 4
#   tools/make_certificates.sh --out DIR --key-only      on a silo's own machine: its key pair alone
#
# --help tells more. What is there already is kept; run it again for more silos or another name of the server.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/tools/install.sh" --if-needed
venv=${SASE_VENV:-$root/tools/venv}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$venv/bin/python" -m sase.bin.certificates "$@"
