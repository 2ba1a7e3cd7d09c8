"""Where the first of several machines is, for the others: HOST:PORT, or a file that all see and that it writes."""

import os
import socket
import time
from pathlib import Path

from sase.atomic import write_text
from sase.errors import InputError

_LOOK_EVERY_S = 1.0


def host_names():
    """Return the names and addresses of this machine, as others know them; its short name is the first."""
    name = socket.gethostname()
    names = [name, socket.getfqdn()]
    try:
        names.append(socket.gethostbyname(name))
    except OSError:  # a machine that does not know itself; others may
        pass
    return list(dict.fromkeys(names))


def free_port():
    """Return a port that nobody on this machine listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def publish_endpoint(path, port):
    """Write into a file that this machine is to be found at a port; return HOST:PORT."""
    endpoint = f"{host_names()[0]}:{port}"
    write_text(path, f"{endpoint}\n")
    return endpoint


def is_endpoint(where):
    """Return whether a text is HOST:PORT, and not the name of a file."""
    host, _, port = str(where).rpartition(":")
    return bool(host) and port.isdecimal()


def resolve_endpoint(where, wait_s):
    """Return HOST:PORT: ``where`` itself, or what is written in the file of that name.

    Args:
        where: HOST:PORT, or a file, which may not be there yet.
        wait_s: how long to wait for the file.

    Raises:
        InputError: it did not come; neither an endpoint nor a file with its folder.
    """
    if is_endpoint(where):
        return str(where)
    if "/" not in str(where):
        raise InputError(f"{where}: must be HOST:PORT, or a file named with its folder")
    path, deadline = Path(where).resolve(), time.monotonic() + wait_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise InputError(f"{path}: is not there after {wait_s:.0f} s; the first machine writes it, has it started?")
        if path.parent.is_dir():
            os.listdir(path.parent)  # lets a shared disk look again
        time.sleep(_LOOK_EVERY_S)
    return path.read_text(encoding="utf-8").strip()
