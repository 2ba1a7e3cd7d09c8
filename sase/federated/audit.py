"""The audit trail of a federation: ``audit.jsonl``, a chain of entries, one per completed round, signed by the server.

Every entry has a number, the hash of the entry before it, and its own hash, which the server signs with the key of its
certificate if it has one. An entry of a round holds the hash of the round's record in ``rounds.jsonl`` and that of the
model. So what is changed, removed or reordered later is found (:mod:`sase.federated.audit_verification`), unless
the attacker has the server's key or, without a key, computes the whole chain again.

An entry is written before the state of its round. A server killed in between repeats that round; an entry ``resumed``
then says after which round the chain continues.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import sase
from sase import jsonfile
from sase.atomic import write_text
from sase.errors import InputError

FILE = "audit.jsonl"
STARTED, KEY, RESUMED, ROUND = "started", "key", "resumed", "round"  # kinds of entries
SIGNED_BY = ec.ECDSA(hashes.SHA384())
_UNHASHED = ("hash", "signature")


def hash_of_entry(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an entry without its own hash and signature."""
    return hash_of_json({name: value for name, value in entry.items() if name not in _UNHASHED})


def hash_of_json(value: Any) -> str:
    """Return the SHA-256 of a value in canonical JSON, whatever the order of its keys and the spaces in its file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_of_model(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a network's arrays by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Signer:
    """The server's key and certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def read(cls, folder: str | Path) -> Signer:
        """Return the signer with ``server.key`` and ``server.crt`` in a folder.

        Raises:
            InputError: they are no such files.
        """
        try:
            key = serialization.load_pem_private_key((Path(folder) / "server.key").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((Path(folder) / "server.crt").read_bytes())
        except ValueError as error:
            raise InputError(f"{folder}: no key and certificate of tools/make_certificates.sh ({error})") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(
                f"{folder}/server.key: not an elliptic-curve key; make one with tools/make_certificates.sh"
            )
        return cls(key, certificate)

    @property
    def pem(self) -> str:
        """The certificate in PEM format."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, text: str) -> str:
        """Return the signature of a text, base64."""
        return base64.b64encode(self.key.sign(text.encode(), SIGNED_BY)).decode()


class AuditTrail:
    """Writes the audit trail of an experiment.

    Args:
        exp_dir: the experiment folder.
        signer: signs the entries; None for a chain without signatures.
    """

    def __init__(self, exp_dir: str | Path, signer: Signer | None = None) -> None:
        self.path, self.signer = Path(exp_dir) / FILE, signer
        self._last: dict[str, Any] = {}  # entry
        self._round = 0  # the last one in the chain
        self._certificate = ""  # of the key that signs from then on
        self._read = False

    def add(self, experiment: str, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Append the entry of a completed round.

        Args:
            experiment: identifier of the experiment.
            record: of the round, for ``rounds.jsonl``.
            arrays: the model after it, by name.

        Raises:
            InputError: the file is not such a chain.
        """
        self._resume()
        number = int(record["round"])
        if not self._last:
            self._append(STARTED, round=number - 1, experiment=experiment, version=sase.__version__)
        if self.signer is not None and self.signer.pem != self._certificate:
            self._append(KEY, certificate=self.signer.pem)
            self._certificate = self.signer.pem
        if number != self._round + 1:
            self._append(RESUMED, round=number - 1)
        # The record as it will be read: JSON has no tuples, for instance.
        record_hash = hash_of_json(json.loads(json.dumps(record)))
        self._append(ROUND, round=number, record=record_hash, model=hash_of_model(arrays))

    def _resume(self) -> None:
        """Read the existing entries, once; a truncated last line, of a killed server, is removed."""
        if self._read:
            return
        self._read = True
        if not self.path.exists():
            return
        text = self.path.read_bytes()
        if not text.endswith(b"\n"):
            write_text(self.path, text[: text.rfind(b"\n") + 1].decode(errors="replace"))
        for entry in jsonfile.read_jsonl(self.path):
            self._last = entry
            if "round" in entry:
                self._round = entry["round"]
            self._certificate = entry.get("certificate", self._certificate)
        if self._last and self._last.get("hash") != hash_of_entry(self._last):
            raise InputError(
                f"{self.path}: its last line was changed; see 'sase audit', and move it away to start a new one"
            )

    def _append(self, kind: str, **values: Any) -> None:
        number, previous = self._last.get("number", 0) + 1, self._last.get("hash", "")
        entry = {"number": number, "kind": kind, **values, "time": round(time.time(), 3), "previous": previous}
        entry["hash"] = hash_of_entry(entry)
        if self.signer is not None:
            entry["signature"] = self.signer.sign(entry["hash"])
        jsonfile.append_jsonl(self.path, entry)
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
        self._last = entry
        if "round" in values:
            self._round = values["round"]
