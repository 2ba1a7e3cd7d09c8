"""All checks of a silo's machine, in the order in which their failures are best mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sase.endpoints import resolve_endpoint
from sase.federated.certificates import silo_credentials
from sase.federated.doctor.credentials import check_credentials
from sase.federated.doctor.data import check_data
from sase.federated.doctor.findings import Finding, guarded
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
    sample_rate: int = 16000,
) -> Iterator[Finding]:
    """Yield the findings about a machine that is to be a silo; nothing is changed, here or on the server.

    Args:
        about: the silo's index, the server, and the server's versions if they are known.
        data_dir, state_dir, certificates, device: as for :func:`sase.federated.flower.silo_process.run_silo`.
        sample_rate: of the network, in Hz.
    """
    yield from guarded("data", "make the data again with 'sase dump'", lambda: check_data(data_dir, sample_rate))
    yield from guarded("disk", _ADMINISTRATOR, lambda: check_disk(state_dir.resolve()))
    yield from guarded("device", _ADMINISTRATOR, lambda: check_device(device))
    if certificates is not None:
        folder = certificates.resolve()
        remedy = "make it with tools/make_certificates.sh"
        yield from guarded("key", remedy, lambda: _check_credentials(folder, about.silo))
    yield from guarded("server", "check the address", lambda: _check_server(about, certificates))


def _check_credentials(certificates: Path, index: int) -> Iterator[Finding]:
    yield from check_credentials(silo_credentials(certificates, index))


def _check_server(about: Membership, certificates: Path | None) -> Iterator[Finding]:
    credentials = None if certificates is None else silo_credentials(certificates.resolve(), about.silo)
    yield from check_server(resolve_endpoint(about.server, 0.0), credentials, about.versions)
