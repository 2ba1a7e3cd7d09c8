"""Programs that tests need and that are no Python packages: used if they are there, installed by root on Debian."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PACKAGES = {  # program or file: Debian's package
    "analyseplugin": "ladspa-sdk",
    "applyplugin": "ladspa-sdk",
    "/usr/include/ladspa.h": "ladspa-sdk",
    "cc": "gcc",
    "chromium": "chromium",
    "clang": "clang",
    "docker-compose": "docker-compose",
    "ffmpeg": "ffmpeg",
    "firefox-esr": "firefox-esr",
    "make": "make",
    "pipewire": "pipewire",
    "pw-cli": "pipewire-bin",
    "systemd-analyze": "systemd",
    "wasm-ld": "lld",
}
TIMEOUT_S = 240


def find(*names):
    """Return the paths of programs or files.

    Missing ones are installed with apt-get if the user is root and the system is Debian's; otherwise the test is
    skipped with the reason.
    """
    missing = [name for name in names if _path(name) is None]
    if missing:
        packages = sorted({PACKAGES[name] for name in missing})
        reason = f"{', '.join(missing)} not found, and {_install(packages)}"
        if any(_path(name) is None for name in missing):
            pytest.skip(reason)
    return [_path(name) for name in names]


def _path(name):
    found = shutil.which(name) or (name if os.path.isfile(name) else None)
    return found and Path(found)


def _install(packages):
    """Install packages, one process at a time; return what came of it."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"only root can install Debian's {', '.join(packages)}"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with open(Path(tempfile.gettempdir()) / "sase-tests-apt.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for step in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            command = ["timeout", str(TIMEOUT_S), "apt-get", "-q", *step]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                return f"'apt-get {step[0]}' failed: {(done.stderr.strip().splitlines() or ['timeout'])[-1]}"
    return f"not part of Debian's {', '.join(packages)}"
