"""The silo's key and its authority's certificate: readable, private, matching, not expired."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from sase.federated.certificates import fingerprint_of_key, read_certificate, read_private_key, read_public_key
from sase.federated.doctor.findings import FAILED, OK, Finding, validity


def check_credentials(folder: Path) -> Iterator[Finding]:
    """Yield findings about ``ca.crt``, ``silo.key`` and, if it is there, ``silo.pub`` in a folder.

    Raises:
        InputError, OSError: a file is missing or malformed, or cannot be read.
    """
    authority = read_certificate(folder / "ca.crt")
    remedy = "the server's operator makes new certificates in another folder, and sends ca.crt"
    yield validity("certificate", f"{folder / 'ca.crt'}: the authority", authority.not_valid_after_utc, remedy)
    path = folder / "silo.key"
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("key", FAILED, f"{path}: other users have access to it", f"run: chmod 600 {path}")
    key = read_private_key(path).public_key()
    if (folder / "silo.pub").exists() and read_public_key(folder / "silo.pub") != key:
        message = f"{folder / 'silo.pub'}: not the public key of silo.key"
        yield Finding("key", FAILED, message, "find the folder to which both belong, or make a new key pair")
    else:
        yield Finding("key", OK, f"{path}: fingerprint {fingerprint_of_key(key)}")
