"""The server as the silo sees it: reachable, its certificate, its clock, its versions, and whether it knows the key."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

from sase.federated.certificates import read_private_key
from sase.federated.connection import ServerAnswer, ask_server
from sase.federated.doctor.findings import FAILED, OK, WARNING, Finding, validity
from sase.federated.flower.patches import CLOCK_AHEAD_S, CLOCK_BEHIND_S, signed_headers
from sase.federated.onboarding import Membership
from sase.federated.versions import MUST_AGREE, differing, installed_versions

_NOTABLE_S = 2.0  # beyond what a header with whole seconds and the network can be wrong by


def check_server(about: Membership, credentials: Path | None) -> Generator[Finding, None, ServerAnswer | None]:
    """Yield findings about the server; return its answer, None if it cannot be reached.

    Args:
        about: the server, the silo's index, and the versions of the server's packages if it does not say them itself.
        credentials: the silo's, with ``ca.crt`` and ``silo.key``; None for a server without TLS.

    Raises:
        InputError: it is not the right one, or no server of a federation.
    """
    ca_file = None if credentials is None else credentials / "ca.crt"
    headers = None if credentials is None else signed_headers(read_private_key(credentials / "silo.key"))
    server = about.server
    try:
        answer = ask_server(server, ca_file, headers)
    except OSError as error:
        remedy = "check that it runs, its address, and firewalls between here and there"
        yield Finding("server", FAILED, f"{server} cannot be reached ({error.strerror or error})", remedy)
        yield from version_findings(about.versions)  # the best that is known of them
        return None
    yield Finding("server", OK, f"{server} is reachable")
    if answer.certificate is not None:
        remedy = "the server's operator renews it with tools/make_certificates.sh and restarts the server"
        yield validity("server's certificate", "it", answer.certificate, remedy)
    clock = clock_finding(answer.ahead_s)
    yield clock
    if credentials is not None:
        yield _key_finding(answer, about.silo, clock.status != FAILED)
    yield from version_findings(answer.versions or about.versions)
    return answer


def clock_finding(ahead_s: float | None) -> Finding:
    """Return the finding about a server's clock that is ``ahead_s`` seconds ahead of this machine's."""
    if ahead_s is None:
        return Finding("clock", WARNING, "the server does not say what time it is", "compare the clocks by hand")
    if abs(ahead_s) < _NOTABLE_S:
        return Finding("clock", OK, f"agrees with the server's within {_NOTABLE_S:.0f} s")
    message = f"{abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'ahead of'} the server's"
    refused = ahead_s > CLOCK_BEHIND_S or ahead_s < -CLOCK_AHEAD_S
    limits = f"at most {CLOCK_AHEAD_S} s ahead and {CLOCK_BEHIND_S} s behind are accepted"
    remedy = "set it by NTP: timedatectl set-ntp true"
    return Finding("clock", FAILED if refused else WARNING, f"{message} ({limits})", remedy)


def version_findings(theirs: Mapping[str, str]) -> Iterator[Finding]:
    """Yield findings about the packages of the server, compared with those installed here; nothing if unknown."""
    ours = installed_versions()
    if not theirs:
        return
    for name in (different := differing(ours, theirs)):
        message = f"{name} {ours.get(name, 'is missing')} here, {theirs.get(name, 'none')} on the server"
        if name in MUST_AGREE:
            yield Finding("versions", FAILED, message, "install the server's version of this repository on both")
        else:
            yield Finding("versions", WARNING, message, "install the server's version for results equal to the bit")
    if not different:
        yield Finding("versions", OK, "agree with the server's: " + ", ".join(f"{n} {v}" for n, v in ours.items()))


def _key_finding(answer: ServerAnswer, silo: int, clocks_agree: bool) -> Finding:
    if answer.name not in ("", f"silo{silo}"):
        message = f"the server knows this key as that of {answer.name}, not of silo{silo}"
        remedy = "use the folder with the key of this silo, or the number of that one (--silo)"
        return Finding("registration", FAILED, message, remedy)
    if answer.versions:
        return Finding("registration", OK, f"the server knows this key as that of {answer.name or 'a silo'}")
    if not clocks_agree:
        message = "the server does not accept signatures of this machine's time"
        return Finding("registration", FAILED, message, "set the clock first")
    remedy = "send silo.pub to its operator, who registers it and restarts the server"
    return Finding("registration", FAILED, "the server does not know this silo's key", remedy)
