"""``python -m sase.federated.flower.supernode``: Flower's SuperNode, which runs the installed ClientApp and no other.

A Flower server sends SuperNodes an app bundle (FAB), and they run the code in it. Ours has no code: it names the
ClientApp of the silo's own installation. Any other bundle is rejected, so the silo's installation alone decides what
the silo sends. Takes the arguments of flower-supernode.
"""

import io
import os
import sys
import tomllib
import zipfile

from sase.federated.flower.app import COMPONENTS
from sase.federated.flower.patches import run_supernode
from sase.federated.flower.patches_busy import HEARTBEAT_S
from sase.federated.flower.processes import socket_path
from sase.zipfiles import DAMAGES

_FILES = {"pyproject.toml", ".info/CONTENT"}
_MAX_BYTES = 1 << 16  # of each, unpacked


def is_trusted_fab(content: bytes) -> bool:
    """Return whether a Flower App Bundle has no code or dependencies and names this package's apps."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as files:
            if set(files.namelist()) != _FILES or max(info.file_size for info in files.infolist()) > _MAX_BYTES:
                return False
            project = tomllib.loads(files.read("pyproject.toml").decode())
    except DAMAGES:  # also what is no TOML, or not UTF-8
        return False
    app = project.get("tool", {}).get("flwr", {}).get("app", {})
    return app.get("components") == COMPONENTS and not project.get("project", {}).get("dependencies")


def main() -> None:
    """Run the SuperNode and exit without joining threads: Flower leaves some behind when its connection is lost."""
    try:
        run_supernode(is_trusted_fab, HEARTBEAT_S, socket_path())
    finally:
        error = sys.exc_info()[1]
        code = error.code if isinstance(error, SystemExit) else 1
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
