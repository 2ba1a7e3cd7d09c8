#!/usr/bin/env bash
# Certificates and keys of a federation: a certificate authority, the server's certificate, a key pair for each silo.
#
#   tools/make_certificates.sh --out DIR --hosts "fl.example.org 10.0.0.5" --silos 4
#
# or, so that no private key leaves its machine:
#   tools/make_certificates.sh --out DIR --hosts "..." --silos 4 --bundle    at the server: bundles/silo0.zip ...
#   tools/make_certificates.sh --out SILO --join silo0.zip                   at a silo: its key pair
#   tools/make_certificates.sh --out DIR --register silo.pub                 at the server: the key that it returns
#
# See --help. Existing files are kept; run it again for more silos or another name of the server.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/tools/install.sh" --if-needed
venv=${SASE_VENV:-$root/tools/venv}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$venv/bin/python" -m sase.bin.certificates "$@"
