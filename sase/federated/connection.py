"""The connection of a silo to its server: whether it can be made, and what the server says of itself."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from sase.errors import InputError

ABOUT_PATH = "/health"  # to a registered silo, the server answers here with its versions
_TIMEOUT_S = 10.0
_MAX_ANSWER = 1 << 16  # bytes


@dataclass(frozen=True)
class ServerAnswer:
    """What a server says of itself.

    Attributes:
        ahead_s: how much the server's clock is ahead of this machine's, to a second; None if it does not say.
        certificate: with which it authenticated itself; None without TLS.
        versions: package to version; empty unless the server knows the key that signed the question.
        name: under which the server has registered that key, such as ``silo0``; empty if it does not say.
        sample_rate: of the network that the server trains, in Hz; None if it does not say.
    """

    ahead_s: float | None
    certificate: x509.Certificate | None
    versions: dict[str, str] = field(default_factory=dict)
    name: str = ""
    sample_rate: int | None = None


def split_endpoint(server: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT.

    Raises:
        InputError: it is not HOST:PORT.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"--server {server}: must be HOST:PORT")
    return host.strip("[]"), int(port)


def reachable(server: str, ca_file: Path | None) -> bool:
    """Return whether the server accepts connections.

    Raises:
        InputError: it does, but has another certificate than the authority in ``ca_file`` signed.
    """
    try:
        with _connected(server, ca_file):
            return True
    except OSError:
        return False


def ask_server(server: str, ca_file: Path | None, headers: Mapping[str, str] | None = None) -> ServerAnswer:
    """Ask a server what it says of itself; nothing on it changes.

    Args:
        server: HOST:PORT.
        ca_file: certificate of the authority that signed the server's; None for a server without TLS.
        headers: of the question, signed with a silo's key; None for an anonymous one.

    Raises:
        InputError: as :func:`reachable`, or something answers that is not such a server.
        OSError: it cannot be reached.
    """
    with _connected(server, ca_file) as connection:
        certificate = None
        if isinstance(connection, ssl.SSLSocket):
            certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
        http_connection = http.client.HTTPConnection("localhost")
        http_connection.sock = connection
        asked = time.time()
        try:
            http_connection.request("GET", ABOUT_PATH, headers=dict(headers or {}))
            response = http_connection.getresponse()
            body = response.read(_MAX_ANSWER)
        except (http.client.HTTPException, ConnectionResetError) as error:
            raise _no_server(server, type(error).__name__, ca_file) from None
        middle = (asked + time.time()) / 2
    if response.status != http.HTTPStatus.OK:
        raise _no_server(server, f"HTTP status {response.status}", ca_file)
    date = _date(response.headers.get("date"))
    ahead_s = None if date is None else date.timestamp() + 0.5 - middle  # the header has whole seconds, rounded down
    return ServerAnswer(ahead_s, certificate, **_about(body))


def _connected(server: str, ca_file: Path | None) -> socket.socket:
    """Return an open connection; TLS, with a verified certificate, if ``ca_file`` is given."""
    host, port = split_endpoint(server)
    connection = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    if ca_file is None:
        return connection
    try:
        return ssl.create_default_context(cafile=ca_file).wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise _rejection(server, ca_file, error) from None
    except ssl.SSLError as error:
        raise InputError(f"{server}: no TLS there ({error.reason}); does it run with insecure=true?") from None
    finally:
        if ca_file is not None:
            connection.close()  # wrapping has taken over its descriptor, or has failed


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header or "")
    except ValueError:
        return None


def _rejection(server: str, ca_file: Path, error: ssl.SSLCertVerificationError) -> InputError:
    """Return the error for a certificate that cannot be accepted, with what to do about it."""
    said = error.verify_message
    if "expired" in said or "not yet valid" in said:
        reason = f"its certificate or {ca_file}, by this machine's clock ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
        remedy = "correct the clock, or the server's operator makes new ones with tools/make_certificates.sh"
        return InputError(f"{server}: rejected, {said}: {reason}; {remedy}")
    if "mismatch" in said or "not valid for" in said:
        reason = f"its certificate is for other names ({said})"
        return InputError(f"{server}: rejected, {reason}; use a name in its --hosts, or add this one there")
    reason = f"its certificate is not signed by {ca_file} ({said})"
    return InputError(f"{server}: rejected, {reason}; get ca.crt from its operator, or correct the address")


def _no_server(server: str, what: str, ca_file: Path | None) -> InputError:
    hint = "" if ca_file else ", or --certificates if it has TLS"
    return InputError(f"{server}: no federation server is listening there ({what}); check the address{hint}")


def _about(body: bytes) -> dict[str, Any]:
    """Return the attributes of the answer in a body; none if it is that of an anonymous or an older server's answer."""
    try:
        answer = json.loads(body)
        versions = {str(name): str(version) for name, version in answer["versions"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    name, rate = answer.get("name"), answer.get("sample_rate")
    return {
        "versions": versions,
        "name": name if isinstance(name, str) else "",
        "sample_rate": rate if isinstance(rate, int) and rate > 0 else None,
    }
