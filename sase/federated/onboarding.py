"""One file per silo with what it needs to join a federation, and its public key back: no private key ever travels.

The server's operator writes the bundles. A silo unpacks its own, makes its key pair, and returns ``silo.pub``, which
the operator registers. The bundle is not secret, but must be genuine: its authority decides which server the silo
trusts. So both sides print the authority's fingerprint, to be compared by telephone or the like.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sase.atomic import atomic_path, write_text
from sase.config import Range, from_mapping, naming
from sase.endpoints import is_endpoint
from sase.errors import InputError
from sase.federated.certificates import (
    fingerprint_of_certificate,
    fingerprint_of_key,
    make_certificates,
    make_silo_key,
    parse_certificate,
    read_certificate,
    read_private_key,
    read_public_key,
)
from sase.federated.versions import installed_versions
from sase.textfile import read_text

RECORD = "federation.json"
_AUTHORITY = "ca.crt"
_MAX_BYTES = 1 << 16  # of a file in a bundle
_ADVICE = """How to join as silo {silo} of the federation at {server}

1. Unpack this bundle and make a key pair, of which silo.key never leaves this machine:
     sase certificates --join silo{silo}.zip --out ~/silo{silo}
   Compare the authority's fingerprint that it prints with the operator's of the server: {authority}
2. Send ~/silo{silo}/silo.pub to the operator, who registers it.
3. Check this machine, and join:
     sase doctor --data-dir DATA --certificates ~/silo{silo}
     sase silo --data-dir DATA --certificates ~/silo{silo}
"""


@dataclass(frozen=True)
class Membership:
    """What a silo knows about its federation, ``federation.json`` beside its key.

    Attributes:
        silo: its index.
        server: HOST:PORT.
        versions: package to version, on the server when the bundle was written.
        sample_rate: of the network, in Hz; None if the server's operator did not say it.
    """

    silo: int
    server: str
    versions: dict[str, str] = field(default_factory=dict)
    sample_rate: Annotated[int, Range(1000, 768000)] | None = None

    @classmethod
    def parse(cls, text: str, where: Path) -> Membership:
        """Return the membership in JSON; raise InputError, which names ``where``, if it is not one."""
        with naming(where):
            try:
                mapping = json.loads(text)
            except ValueError as error:
                raise InputError(f"not valid JSON ({error}); ask the server's operator for the bundle again") from None
            found = from_mapping(cls, mapping)
            if found.silo < 0 or not is_endpoint(found.server):
                raise InputError(f"names silo {found.silo} and server {found.server}; ask the operator for another")
        return found


def write_bundles(
    folder: Path, hosts: Sequence[str], num_silos: int, port: int, days: int = 825, sample_rate: int | None = None
) -> list[Path]:
    """Make the certificates of a federation and a bundle for each silo, ``bundles/silo<N>.zip``; return the bundles.

    Args:
        folder: as for :func:`sase.federated.certificates.make_certificates`; the silos make their own keys.
        hosts: names and addresses of the server; silos connect to the first.
        num_silos: number of silos.
        port: of the server.
        days: validity of the certificates.
        sample_rate: of the network, in Hz, against which silos check their data before the server runs; None if it is
            not known yet.

    Raises:
        InputError: no name of the server, or a sample rate that no network has.
    """
    if not hosts:
        raise InputError('--bundle needs --hosts, such as --hosts "fl.example.org 10.0.0.5"')
    host = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    with naming("--sample-rate"):
        from_mapping(Membership, {"silo": 0, "server": host, "sample_rate": sample_rate})
    make_certificates(folder, hosts, num_silos, days, silo_keys=False)
    authority = read_certificate(folder / _AUTHORITY)
    bundles = []
    for silo in range(num_silos):
        membership = Membership(silo, f"{host}:{port}", installed_versions(), sample_rate)
        files = {
            RECORD: json.dumps(asdict(membership), indent=1) + "\n",
            _AUTHORITY: authority.public_bytes(serialization.Encoding.PEM).decode(),
            "README.txt": _ADVICE.format(
                silo=silo, server=membership.server, authority=fingerprint_of_certificate(authority)
            ),
        }
        bundles.append(folder / f"bundles/silo{silo}.zip")
        with atomic_path(bundles[-1]) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, text in files.items():
                bundle.writestr(name, text)
    return bundles


def join(bundle: Path, folder: Path) -> Membership:
    """Unpack a silo's bundle and make its key pair, unless it has one; return the membership.

    Args:
        bundle: of :func:`write_bundles`; again, for instance, when the server has moved.
        folder: output: ``federation.json``, ``ca.crt``, ``silo.key`` and ``silo.pub``, which is for the server.

    Raises:
        InputError: it is no bundle, or the folder is another silo's.
    """
    record, authority = _read_bundle(bundle)
    membership = Membership.parse(record, bundle)
    parse_certificate(authority.encode(), bundle)
    if (old := read_membership(folder)) is not None and old.silo != membership.silo:
        raise InputError(f"{folder}: belongs to silo {old.silo}, not {membership.silo}; choose another folder")
    if not (folder / "silo.key").exists():
        make_silo_key(folder)
    key = read_private_key(folder / "silo.key").public_key()
    write_text(folder / "silo.pub", _public_line(key, f"silo{membership.silo}"))
    write_text(folder / _AUTHORITY, authority)
    write_text(folder / RECORD, record)
    return membership


def register_silo(folder: Path, public_key: Path) -> tuple[int, str]:
    """Register the public key that a silo has sent; return its index and the key's fingerprint.

    Args:
        folder: of the federation's certificates, or ``server/`` in it.
        public_key: ``silo.pub`` of :func:`join`, which names the silo in its comment.

    Raises:
        InputError: it is no such key, the silo has another one, or another silo has this one.
    """
    server = folder / "server" if (folder / "server").is_dir() else folder
    if not (server / "server.crt").is_file():
        raise InputError(f"{server}: no server.crt, so not the certificates of a server; make them with --hosts")
    key = read_public_key(public_key)
    comment = read_text(public_key).split()[2:]
    number = comment[0].removeprefix("silo") if comment else ""
    if not number.isdecimal() or comment[0] != f"silo{int(number)}":
        raise InputError(f"{public_key}: does not say which silo's it is; ask for silo.pub of --join")
    path = server / f"{comment[0]}.pub"
    for other in sorted(server.glob("silo*.pub")):
        same = read_public_key(other) == key
        if other == path and not same:
            raise InputError(f"{path}: {comment[0]} has another key already; delete this file to replace it")
        if other != path and same:
            raise InputError(f"{other}: this key is registered as {other.stem}; every silo needs its own")
    write_text(path, _public_line(key, comment[0]))
    return int(number), fingerprint_of_key(key)


def read_membership(folder: Path) -> Membership | None:
    """Return what a silo's folder says about its federation; None if it was not made from a bundle."""
    path = folder / RECORD
    return Membership.parse(read_text(path), path) if path.is_file() else None


def membership_of(certificates: str | None, silo: int | None, server: str | None) -> Membership:
    """Return which silo this is and its server: as given, or else as the bundle says.

    Args:
        certificates: folder with the silo's key; None without TLS.
        silo: its index; None if the bundle says it.
        server: HOST:PORT or a file with it; None if the bundle says it.

    Raises:
        InputError: neither says it.
    """
    found = read_membership(Path(certificates)) if certificates else None
    if found is None and (silo is None or server is None):
        raise InputError(f"needs --silo and --server: there is no {RECORD} in {certificates or '--certificates'}")
    if found is None:
        return Membership(silo or 0, server or "")
    if silo not in (None, found.silo):
        raise InputError(f"--silo {silo}: {certificates} has the key of silo {found.silo}")
    return replace(found, server=server or found.server)


def _read_bundle(bundle: Path) -> tuple[str, str]:
    """Return the texts of ``federation.json`` and ``ca.crt`` in a bundle; nothing else of it is unpacked."""
    try:
        with zipfile.ZipFile(bundle) as files:
            texts = []
            for name in (RECORD, _AUTHORITY):
                with files.open(name) as file:
                    texts.append(file.read(_MAX_BYTES).decode("utf-8"))
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{bundle}: not a bundle of 'sase certificates --bundle' ({error})") from None
    return texts[0], texts[1]


def _public_line(key: ec.EllipticCurvePublicKey, comment: str) -> str:
    """Return the line of a public key in OpenSSH's format."""
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{line.decode()} {comment}\n"
