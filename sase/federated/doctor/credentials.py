"""The silo's key and its authority's certificate: readable, private, matching, not expired; the keys of other silos."""

from __future__ import annotations

import stat
from collections.abc import Generator
from pathlib import Path

from sase.federated.certificates import fingerprint_of_key, read_certificate, read_private_key, read_public_key
from sase.federated.doctor.findings import FAILED, OK, Finding, validity
from sase.federated.secure.identity import KEYS_FOLDER, Roster


def check_credentials(folder: Path, silo: int) -> Generator[Finding]:
    """Yield findings about ``ca.crt`` and ``silo.key`` in a folder, and ``silo.pub`` and ``silos/`` if they exist.

    Args:
        folder: the silo's.
        silo: its index.

    Raises:
        InputError, OSError: a file is missing or malformed, or cannot be read.
    """
    authority = read_certificate(folder / "ca.crt")
    remedy = "the server's operator makes new certificates in another folder, and sends ca.crt"
    yield validity("certificate", f"{folder / 'ca.crt'}: the authority", authority, remedy)
    path = folder / "silo.key"
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("key", FAILED, f"{path}: other users have access to it", f"run: chmod 600 {path}")
    key = read_private_key(path).public_key()
    if (folder / "silo.pub").exists() and read_public_key(folder / "silo.pub") != key:
        message = f"{folder / 'silo.pub'}: not the public key of silo.key"
        yield Finding("key", FAILED, message, "find the folder to which both belong, or make a new key pair")
    else:
        yield Finding("key", OK, f"{path}: fingerprint {fingerprint_of_key(key)}")
    if (folder / KEYS_FOLDER).is_dir():
        yield _check_roster(folder / KEYS_FOLDER, silo, fingerprint_of_key(key))


def _check_roster(folder: Path, silo: int, own: str) -> Finding:
    """Return the finding about the keys that this silo accepts in secure aggregation: its own must be among them."""
    roster = Roster.load(folder)
    if silo in roster.keys and fingerprint_of_key(roster.keys[silo]) == own:
        return Finding("keys of silos", OK, f"{folder}: {len(roster.keys)} silos, fingerprint {roster.fingerprint}")
    problem = "is not the key of this silo" if silo in roster.keys else "is missing"
    remedy = f"copy silo.pub of this silo there as silo{silo}.pub, if its number is {silo}; see 'Keys' in DEPLOYMENT.md"
    return Finding("keys of silos", FAILED, f"{folder / f'silo{silo}.pub'}: {problem}", remedy)
