"""Certificates and keys with which the server and the silos of a federation authenticate each other.

A private certificate authority signs the server's certificate, which the silos verify; each silo has its own key
(elliptic curve, P-384), whose public part the server registers. Existing files are kept: a second run with more silos
makes keys for the new ones only.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sase.errors import InputError
from sase.federated.secure.identity import KEYS_FOLDER

_LOCAL = ("localhost", "127.0.0.1", "::1")  # where the server's own processes connect


def make_certificates(
    folder: str | Path, hosts: Iterable[str], num_silos: int, days: int = 825, silo_keys: bool = True
) -> None:
    """Make the missing certificates and keys of a federation.

    Args:
        folder: output: ``ca.key`` (keep it secret), ``ca.crt``, ``server/`` (for the server's machine) and ``silo0/``
            ... (each for that silo's machine only; ``silos/`` in it holds the public keys of all silos).
        hosts: names and addresses of the server for the silos; if they change, the server gets a new certificate.
        num_silos: number of silos.
        days: validity of the certificates.
        silo_keys: whether to make the keys of the silos too; otherwise each silo makes its own.
    """
    folder = Path(folder)
    key, authority = _authority(folder, days)
    server = folder / "server"
    names = _names(hosts)
    if not _certificate_fits(server / "server.crt", names):
        server_key = ec.generate_private_key(ec.SECP384R1())
        certificate = _certificate(server_key, key, authority.subject, "SASE federation server", days, names)
        _write(server / "server.key", _pem_key(server_key), secret=True)
        _write(server / "server.crt", certificate.public_bytes(serialization.Encoding.PEM))
    for index in range(num_silos if silo_keys else 0):
        silo = folder / f"silo{index}"
        if (server / f"silo{index}.pub").exists() and not silo.exists():
            continue  # this silo made its own key
        if not (silo / "silo.key").exists():
            make_silo_key(silo)
        _write(silo / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))
        _write(server / f"silo{index}.pub", (silo / "silo.pub").read_bytes())
    _write(server / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))
    for index in range(num_silos):  # secure aggregation: a silo accepts these keys and no others
        if (folder / f"silo{index}").exists():
            for other in range(num_silos):
                name = f"silo{other}.pub"
                _write(folder / f"silo{index}" / KEYS_FOLDER / name, (server / name).read_bytes())


def make_silo_key(folder: str | Path) -> None:
    """Make a silo's key pair: ``silo.key`` never leaves that machine, ``silo.pub`` is for the server."""
    if (Path(folder) / "silo.key").exists():
        raise InputError(f"{folder}: silo.key exists and may be registered with the server; choose another folder")
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write(Path(folder) / "silo.key", private, secret=True)
    _write(Path(folder) / "silo.pub", public + b"\n")


def silo_credentials(folder: Path, index: int) -> Path:
    """Return the folder with a silo's ``ca.crt`` and ``silo.key``: ``folder`` itself or ``silo<index>`` in it."""
    if (folder / f"silo{index}").is_dir():
        folder = folder / f"silo{index}"
    for name in ("ca.crt", "silo.key"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; tools/make_certificates.sh makes it")
    return folder


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file; raise InputError if there is none in it."""
    return parse_certificate(path.read_bytes(), path)


def parse_certificate(content: bytes, where: Path) -> x509.Certificate:
    """Return the certificate in PEM format; raise InputError, which names ``where``, if there is none."""
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        raise InputError(f"{where}: not a certificate in PEM format; copy it from the server again") from None


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return a silo's private key; raise InputError if the file holds no such key."""
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path}: not a key of tools/make_certificates.sh; make a new one with --key-only")
    return key


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Return a silo's public key; raise InputError if the file holds no such key."""
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError(f"{path}: not a public key of tools/make_certificates.sh; copy silo.pub from the silo again")
    return key


def fingerprint_of_key(key: ec.EllipticCurvePublicKey) -> str:
    """Return the fingerprint of a public key, as ``ssh-keygen -lf silo.pub`` prints it."""
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def fingerprint_of_certificate(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, as ``openssl x509 -fingerprint -sha256`` prints it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _authority(folder: Path, days: int) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the key and the certificate of the certificate authority, made if they do not exist."""
    if (folder / "ca.crt").exists():
        if not (folder / "ca.key").exists():
            raise InputError(
                f"{folder}: ca.key not found beside ca.crt, so nothing can be signed; choose another folder"
            )
        loaded = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise InputError(f"{folder}/ca.key: not an elliptic-curve key; choose another folder")
        return loaded, x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SASE federation")])
    certificate = _certificate(key, key, name, "SASE federation", days, None)
    _write(folder / "ca.key", _pem_key(key), secret=True)
    _write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    name: str,
    days: int,
    names: Sequence[x509.GeneralName] | None,
) -> x509.Certificate:
    """Return a certificate for ``key``: of the server, with its ``names``, or of the authority, without."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # tolerates silos whose clocks are behind
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=0 if names is None else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(authority=names is None), critical=True)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA384())


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, *_LOCAL]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _certificate_fits(path: Path, names: Iterable[x509.GeneralName]) -> bool:
    """Return whether a certificate exists, has not expired and is for these names."""
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        return False
    return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == set(names)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, secret: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    # Created with its final mode: a chmod afterwards would leave the key readable for a moment.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with open(descriptor, "wb") as file:
        file.write(content)
    os.replace(partial, path)
