"""The registered keys of silos: signatures, and the list of keys that a silo accepts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sase.errors import InputError

KEYS_FOLDER = "silos"  # beside a silo's key: the registered keys of all silos
_ALGORITHM = ec.ECDSA(hashes.SHA384())
_FINGERPRINT = 16  # hexadecimal digits


def canonical(value: Any) -> bytes:
    """Return plain types as bytes, the same ones for equal values: what is hashed and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class Signer:
    """A silo's private key, ``silo.key`` of :mod:`sase.federated.certificates`."""

    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, path: str | Path) -> Signer:
        """Read the key.

        Raises:
            InputError: there is none, or it is not a key of ``tools/make_certificates.sh``.
        """
        try:
            key = serialization.load_ssh_private_key(Path(path).read_bytes(), None)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; tools/make_certificates.sh makes it") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InputError(f"{path}: not a key of tools/make_certificates.sh ({error})") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{path}: not an elliptic-curve key of tools/make_certificates.sh")
        return cls(key)

    def sign(self, purpose: str, statement: Any) -> bytes:
        """Return the signature of a statement of plain types; it is valid for this purpose alone."""
        return self.key.sign(canonical([purpose, statement]), _ALGORITHM)


@dataclass(frozen=True)
class Roster:
    """The registered public keys of all silos of a federation, by silo."""

    keys: Mapping[int, ec.EllipticCurvePublicKey]

    @classmethod
    def load(cls, folder: str | Path) -> Roster:
        """Read ``silo0.pub`` ... of a folder.

        Raises:
            InputError: there is none, or a file is not a key.
        """
        keys = {}
        for path in sorted(Path(folder).glob("silo*.pub")):
            number = path.stem.removeprefix("silo")
            if not number.isdecimal():
                continue
            try:
                key = serialization.load_ssh_public_key(path.read_bytes())
            except (ValueError, UnsupportedAlgorithm) as error:
                raise InputError(f"{path}: not a key of tools/make_certificates.sh ({error})") from None
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise InputError(f"{path}: not an elliptic-curve key of tools/make_certificates.sh")
            keys[int(number)] = key
        if len({_raw(key) for key in keys.values()}) < len(keys):
            raise InputError(f"{folder}: two silos have the same key; each needs its own")
        if not keys:
            raise InputError(
                f"{folder}: no keys of silos, silo0.pub ...; secure aggregation needs those of all silos there "
                "(tools/make_certificates.sh)"
            )
        return cls(keys)

    @property
    def fingerprint(self) -> str:
        """A short text that is equal for equal keys; silos compare it among themselves, not through the server."""
        points = {str(silo): _raw(key).hex() for silo, key in self.keys.items()}
        return hashlib.sha256(canonical(points)).hexdigest()[:_FINGERPRINT]

    def verify(self, silo: int, purpose: str, statement: Any, signature: bytes) -> None:
        """Check a signature of :meth:`Signer.sign`.

        Raises:
            ValueError: the silo is not registered, or this is not its signature.
        """
        if silo not in self.keys:
            raise ValueError(f"silo {silo} has no registered key here")
        try:
            self.keys[silo].verify(signature, canonical([purpose, statement]), _ALGORITHM)
        except InvalidSignature:
            raise ValueError(f"not signed by the registered key of silo {silo}") from None


def _raw(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
