"""Certificates and keys with which the server and the silos of a federation authenticate each other.

A certificate authority of the federation's own signs the server's certificate, which silos check; each silo has a key
of its own (elliptic curve, P-384), whose public half the server registers. What is there already is kept: run again
with more silos, it makes keys for the new ones.
"""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sase.errors import InputError

_LOCAL = ("localhost", "127.0.0.1", "::1")  # the server's own processes reach it here


def make_certificates(folder, hosts, num_silos, days=825):
    """Make what is missing of a federation's certificates and keys.

    Args:
        folder: gets ``ca.key`` (keep it, give it to nobody), ``ca.crt``, ``server/`` (for the server's machine) and
            ``silo0/`` ... (each for that silo's machine alone).
        hosts: names and addresses by which silos reach the server; another list makes another server certificate.
        num_silos: how many silos there are.
        days: how long certificates are valid.
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
    for index in range(num_silos):
        silo = folder / f"silo{index}"
        if (server / f"silo{index}.pub").exists() and not silo.exists():
            continue  # that silo made its own key
        if not (silo / "silo.key").exists():
            make_silo_key(silo)
        _write(silo / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))
        _write(server / f"silo{index}.pub", (silo / "silo.pub").read_bytes())
    _write(server / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))


def make_silo_key(folder):
    """Make a silo's key pair in ``folder``: ``silo.key`` never leaves that machine, ``silo.pub`` goes to the server."""
    if (Path(folder) / "silo.key").exists():
        raise InputError(f"{folder}: has a silo.key, which the server may know already; name another folder")
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write(Path(folder) / "silo.key", private, secret=True)
    _write(Path(folder) / "silo.pub", public + b"\n")


def _authority(folder, days):
    if (folder / "ca.crt").exists():
        if not (folder / "ca.key").exists():
            raise InputError(f"{folder}: has ca.crt but no ca.key, so nothing more can be signed; name another folder")
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        return key, x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SASE federation")])
    certificate = _certificate(key, key, name, "SASE federation", days, None)
    _write(folder / "ca.key", _pem_key(key), secret=True)
    _write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _certificate(key, signer, issuer, name, days, names):
    """Return a certificate for ``key``: the server's with its ``names``, the authority's without."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # the silos' clocks may be a little behind
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


def _usage(authority):
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


def _names(hosts):
    names = []
    for host in dict.fromkeys([*hosts, *_LOCAL]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _certificate_fits(path, names):
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        return False
    return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == set(names)


def _pem_key(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path, content, secret=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    # Created unreadable to others, never made so afterwards.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with open(descriptor, "wb") as file:
        file.write(content)
    os.replace(partial, path)
