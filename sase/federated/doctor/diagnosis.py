"""All checks of a silo's machine: quick ones first, and the data last, since the server knows what it must be."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

from sase.endpoints import resolve_endpoint
from sase.federated.certificates import silo_credentials
from sase.federated.connection import ServerAnswer
from sase.federated.doctor.credentials import check_credentials
from sase.federated.doctor.data import check_data
from sase.federated.doctor.findings import OK, WARNING, Finding, guarded
from sase.federated.doctor.machine import check_device, check_disk
from sase.federated.doctor.server import check_server
from sase.federated.onboarding import Membership

_ADMINISTRATOR = "ask the administrator of this machine"


def diagnose(
    about: Membership,
    data_dir: Path,
    state_dir: Path,
    certificates: Path | None,
    device: str = "cpu",
    sample_rate: int | None = None,
) -> Iterator[Finding]:
    """Yield the findings about a machine that is to be a silo; nothing is changed, here or on the server.

    Args:
        about: the silo's index, the server, and its versions and the network's sample rate if they are known.
        data_dir, state_dir, certificates, device: as for :func:`sase.federated.flower.silo_process.run_silo`.
        sample_rate: of the network, in Hz; None if the user does not know it. What the server says counts more.
    """
    yield from guarded("disk", _ADMINISTRATOR, lambda: check_disk(state_dir.resolve()))
    yield from guarded("device", _ADMINISTRATOR, lambda: check_device(device))
    credentials, answer = None, None
    if certificates is not None:
        folder = certificates.resolve()
        remedy = "make it with tools/make_certificates.sh"
        credentials = yield from guarded("key", remedy, lambda: _check_credentials(folder, about.silo))
    if certificates is not None and credentials is None:
        yield Finding("server", WARNING, "not asked, since the silo has no valid key", "fix the key first")
    else:
        answer = yield from guarded("server", "check the address", lambda: _check_server(about, credentials))
    rate = None
    for source, known in {
        "as the server says": None if answer is None else answer.sample_rate,
        "as given with --sample-rate": sample_rate,
        "as the bundle says": about.sample_rate,
    }.items():
        if rate is None and known is not None:
            rate = known
            yield Finding("sample rate", OK, f"{rate} Hz, {source}")
    yield from guarded("data", "make the data again with 'sase dump'", lambda: check_data(data_dir, rate))


def _check_credentials(certificates: Path, index: int) -> Generator[Finding, None, Path]:
    """Yield findings about a silo's credentials; return their folder."""
    yield from check_credentials(folder := silo_credentials(certificates, index), index)
    return folder


def _check_server(about: Membership, credentials: Path | None) -> Generator[Finding, None, ServerAnswer | None]:
    where = replace(about, server=resolve_endpoint(about.server, 0.0))
    return (yield from check_server(where, credentials))
