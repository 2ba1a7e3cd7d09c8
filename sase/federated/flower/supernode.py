"""``python -m sase.federated.flower.supernode``: Flower's supernode, which runs this installation's code and no other.

A Flower server sends an app to the silos, and they run what is in it. Ours holds no code: it names the client app of
the silo's own installation. Anything else is refused here, so that what a silo sends is decided by what the silo
installed. Takes flower-supernode's arguments.
"""

import io
import logging
import os
import subprocess
import sys
import tomllib
import zipfile
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import flwr.supercore.heartbeat as heartbeat
import flwr.supernode.fleet_http_connection as connection
import flwr.supernode.start_client_internal as node
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.cli import flower_supernode

from sase.federated.flower.app import COMPONENTS
from sase.processes import kill_with_parent

_HEARTBEAT_S = 10  # Flower's 30 s would leave a dead silo unnoticed for a minute
_FILES = {"pyproject.toml", ".info/CONTENT"}


def is_our_app(bundle):
    """Return whether a Flower app bundle (bytes) holds no code and names this package's client app."""
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as files:
            if set(files.namelist()) != _FILES:
                return False
            project = tomllib.loads(files.read("pyproject.toml").decode())
    except (zipfile.BadZipFile, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False
    app = project.get("tool", {}).get("flwr", {}).get("app", {})
    return app.get("components") == COMPONENTS and not project.get("project", {}).get("dependencies")


@contextmanager
def guarded(connect, *args, **kwargs):
    """Flower's connection to the server, ``connect(*args, **kwargs)``, with apps that are not ours held back."""
    with connect(*args, **kwargs) as (node_id, receive, send, get_run, get_fab, *others):

        def get_our_fab(fab_hash, run_id):
            bundle = get_fab(fab_hash, run_id)
            if not is_our_app(bundle.content):
                logging.getLogger("flwr").error("REFUSED: the server sent an app that is not ours")
                raise RunNotRunningException  # what makes a supernode leave a message alone
            return bundle

        yield node_id, receive, send, get_run, get_our_fab, *others


def main():
    """Run the supernode; never return, since Flower leaves threads behind where its connection broke for good."""
    node.subprocess = SimpleNamespace(Popen=partial(subprocess.Popen, preexec_fn=kill_with_parent))  # of its executor
    connect = node._init_connection
    node._init_connection = lambda *args, **kwargs: guarded(connect, *args, **kwargs)
    heartbeat.HEARTBEAT_DEFAULT_INTERVAL = connection.HEARTBEAT_DEFAULT_INTERVAL = _HEARTBEAT_S
    try:
        flower_supernode()
    finally:
        error = sys.exc_info()[1]
        code = error.code if isinstance(error, SystemExit) else 1
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
