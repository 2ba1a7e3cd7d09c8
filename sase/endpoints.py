"""Endpoints of a server, HOST:PORT: published in a file on a shared disk, and resolved from it by other machines."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from sase.atomic import write_text
from sase.errors import InputError
from sase.textfile import read_text
from sase.waiting import Waiting

_POLL_S = 1.0


def host_names() -> list[str]:
    """Return the names and addresses of this machine, its short name first."""
    name = socket.gethostname()
    names = [name, socket.getfqdn()]
    with contextlib.suppress(OSError):  # this machine cannot resolve its own name; others may
        names.append(socket.gethostbyname(name))
    return list(dict.fromkeys(names))


def free_port() -> int:
    """Return an unused TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def publish_endpoint(path: str | Path, port: int) -> str:
    """Write HOST:PORT of this machine to a file, and return it."""
    endpoint = f"{host_names()[0]}:{port}"
    write_text(path, f"{endpoint}\n")
    return endpoint


def is_endpoint(where: str | Path) -> bool:
    """Return whether ``where`` is HOST:PORT rather than a file name."""
    host, _, port = str(where).rpartition(":")
    return bool(host) and port.isdecimal()


def resolve_endpoint(where: str | Path, wait_s: float) -> str:
    """Return HOST:PORT: ``where`` itself, or the content of the file of that name.

    Args:
        where: HOST:PORT, or a file, which may not exist yet.
        wait_s: timeout for the file to appear.

    Raises:
        InputError: the file did not appear, or ``where`` is neither an endpoint nor a path with a folder.
    """
    if is_endpoint(where):
        return str(where)
    if "/" not in str(where):
        raise InputError(f"{where}: must be HOST:PORT, or a file with its folder, e.g. ./FILE")
    path, waiting = Path(where).resolve(), Waiting()
    while not path.exists():
        waiting.report(lambda: f"{path}, which the server writes", wait_s)
        if waiting.seconds > wait_s:
            raise InputError(f"{path}: not found after {wait_s:.0f} s; has the machine that writes it been started?")
        if path.parent.is_dir():
            os.listdir(path.parent)  # refreshes the cache of a shared disk
        time.sleep(_POLL_S)
    return read_text(path).strip()
