"""Verifies the audit trail of a federation, and names the first line that was changed, is missing or out of order."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from sase import jsonfile
from sase.errors import InputError
from sase.federated.audit import (
    FILE,
    KEY,
    RESUMED,
    ROUND,
    SIGNED_BY,
    STARTED,
    hash_of_entry,
    hash_of_json,
    hash_of_model,
)
from sase.federated.certificates import fingerprint_of_certificate, read_certificate

_RECORDS = "rounds.jsonl"


@dataclass
class AuditResult:
    """What was verified.

    Attributes:
        rounds: numbers of the rounds whose records are in the chain and unchanged.
        before: number of rounds before the chain started, by an earlier version; nothing is known of them.
        signers: fingerprints of the certificates whose keys signed the chain, in order; empty if nobody did.
        trusted: whether these certificates are the authority's that was given.
        models: file to the round that it is the model of.
    """

    rounds: list[int]
    before: int
    signers: list[str]
    trusted: bool
    models: dict[str, int]

    def __str__(self) -> str:
        by = f"signed by {', '.join(self.signers)}" if self.signers else "not signed (the engine has no server key)"
        if self.signers and not self.trusted:
            by += " (compare it with the server's, or use --certificates)"
        before = f"; rounds 1 to {self.before} were completed before the chain was started" if self.before else ""
        models = "".join(f"; {name} is the model of round {number}" for name, number in self.models.items())
        return f"{len(self.rounds)} rounds, chained, {by}{before}{models}"


def verify(exp_dir: str | Path, authority: Path | None = None) -> AuditResult:
    """Verify ``audit.jsonl`` of an experiment folder, and by it ``rounds.jsonl``, ``last.pt`` and ``best.pt``.

    Args:
        exp_dir: the experiment folder.
        authority: ``ca.crt`` of the federation, which must have signed the certificates in the chain; None to accept
            any, whose fingerprints are then to be compared by hand.

    Raises:
        InputError: there is no chain, or what was changed, is missing or out of order.
    """
    folder = Path(exp_dir)
    if not (folder / FILE).exists():
        raise InputError(f"{folder}: no {FILE}: not a federation, or one of a version without an audit trail")
    entries = jsonfile.read_jsonl(folder / FILE)
    _check_sequence(folder / FILE, [entry.get("number") for entry in entries], 1, "line")
    signers = _check_chain(folder / FILE, entries, authority)
    before, rounds = _rounds(folder / FILE, entries)
    records = jsonfile.read_jsonl(folder / _RECORDS)
    _check_records(folder / _RECORDS, records, before, rounds)
    best = next((record["round"] for record in reversed(records) if record.get("best")), None)
    expected = {"last.pt": max(rounds, default=None), "best.pt": best}
    models = {name: number for name, number in expected.items() if number in rounds and number is not None}
    for name, number in models.items():
        _check_model(folder / name, number, rounds[number]["model"])
    return AuditResult(sorted(rounds), before, signers, authority is not None and bool(signers), models)


def _check_sequence(path: Path, numbers: Iterable[Any], first: int, what: str) -> None:
    """Raise InputError unless the numbers are ``first``, ``first + 1`` ...: names the first line that is not."""
    numbers = list(numbers)
    for line, (number, expected) in enumerate(zip(numbers, range(first, first + len(numbers))), 1):
        if number == expected:
            continue
        if expected in numbers:
            raise InputError(f"{path}:{line}: {what} {number} where {what} {expected} belongs: the order was changed")
        raise InputError(f"{path}:{line}: {what} {expected} is missing (here is {what} {number})")


def _check_chain(path: Path, entries: list[dict[str, Any]], authority: Path | None) -> list[str]:
    """Check hashes and signatures; return the fingerprints of the certificates."""
    certificates: list[x509.Certificate] = []
    previous = ""
    for line, entry in enumerate(entries, 1):
        where = f"{path}:{line}"
        if entry.get("hash") != hash_of_entry(entry):
            raise InputError(f"{where}: was changed: its hash is not that of its content")
        if entry.get("previous") != previous:
            raise InputError(f"{path}:{line - 1}: was changed: line {line} follows an entry with another hash")
        if entry.get("kind") == KEY:
            certificates.append(_certificate(where, entry, authority))
        if certificates:
            _check_signature(where, entry, certificates[-1])
        elif authority is not None and entry.get("kind") != STARTED:
            raise InputError(f"{where}: not signed; anyone with write access to this folder could have made this chain")
        previous = entry["hash"]
    return list(dict.fromkeys(map(fingerprint_of_certificate, certificates)))


def _certificate(where: str, entry: Mapping[str, Any], authority: Path | None) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(str(entry.get("certificate")).encode())
        if authority is not None:
            certificate.verify_directly_issued_by(read_certificate(authority))
    except (InvalidSignature, TypeError):
        raise InputError(f"{where}: a key whose certificate {authority} did not sign") from None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    return certificate


def _check_signature(where: str, entry: Mapping[str, Any], certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    try:
        signature = base64.b64decode(entry.get("signature", ""), validate=True)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, str(entry["hash"]).encode(), SIGNED_BY)
    except (InvalidSignature, ValueError, TypeError):
        raise InputError(f"{where}: not signed by the server's key: written by somebody else") from None


def _rounds(path: Path, entries: list[dict[str, Any]]) -> tuple[int, dict[int, dict[str, Any]]]:
    """Return the number of rounds before the chain and, for each round in it, the entry that counts."""
    before, rounds = 0, dict[int, dict[str, Any]]()
    for line, entry in enumerate(entries, 1):
        kind, number = entry.get("kind"), entry.get("round")
        if kind == STARTED and line == 1:
            before = int(number or 0)
        elif kind == RESUMED:
            rounds = {done: of for done, of in rounds.items() if done <= int(number or 0)}
        elif kind == ROUND and number == before + len(rounds) + 1:
            rounds[number] = entry
        elif kind != KEY:
            raise InputError(f"{path}:{line}: an entry '{kind}' of round {number} cannot follow the one before it")
    return before, rounds


def _check_records(path: Path, records: list[dict[str, Any]], before: int, rounds: Mapping[int, Any]) -> None:
    _check_sequence(path, [record.get("round") for record in records], 1, "round")
    for line, record in enumerate(records, 1):
        if line <= before:
            continue
        if line not in rounds:
            raise InputError(f"{path}:{line}: round {line} is not in {FILE}: it was added later")
        if hash_of_json(record) != rounds[line]["record"]:
            raise InputError(f"{path}:{line}: round {line} was changed after it was recorded")
    if len(records) < before + len(rounds):
        raise InputError(
            f"{path}: round {len(records) + 1} is missing at its end; if the server was killed while saving it, "
            "run the same command again"
        )


def _check_model(path: Path, number: int, expected: str) -> None:
    from sase.model import load_model

    state = {name: value.numpy() for name, value in load_model(path).state_dict().items()}
    if hash_of_model(state) != expected:
        raise InputError(f"{path}: not the model of round {number}, which is in {FILE}")
