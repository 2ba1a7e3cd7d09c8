"""Supervision of the processes of one federation: their environment, how they are found again, and termination.

Flower detaches some of its processes (the SuperExec, Ray's daemons), and a killed parent leaves others behind. So every
process of a federation has the federation's home folder in an environment variable, by which a later command finds and
terminates it. Linux only, as the recipes are.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from sase.atomic import write_text
from sase.errors import InputError
from sase.private import make_private, private_files
from sase.processes import child_environment, folder_lock, last_line

_HOME_VARIABLE = "SASE_FEDERATION"
_SOCKET_VARIABLE = "SASE_FEDERATION_SOCKET"
_FOLDER_PREFIX = f"{tempfile.gettempdir()}/sase-"
_MAX_PREFIX = 90  # bytes; a socket's path has at most 107
# Flower's setting of how many bytes of an array are sent as one object. The SuperLink takes several times as many to
# handle one; smaller ones take less memory, but more requests and with them more CPU time.
OBJECT_SIZE = {"FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(2 << 20)}


def federation_environment(home: Path, folder: Path, threads: int, task_poll_s: float = 0.5) -> dict[str, str]:
    """Return the environment of a federation's processes: the user's without Flower's and Ray's settings, no telemetry.

    Args:
        home: the federation's folder; ``FLWR_HOME`` is ``home/flwr``.
        folder: of :func:`runtime_folder`, with the socket of the federation's server.
        threads: CPU threads of each process, unless the environment already has ``OMP_NUM_THREADS``.
        task_poll_s: seconds between two looks for a task to start; each one is a request to the server.
    """
    inherited = child_environment(threads)
    return {
        **{name: value for name, value in inherited.items() if not name.startswith(("FLWR_", "RAY_"))},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        _HOME_VARIABLE: str(home),
        _SOCKET_VARIABLE: str(folder / "socket"),
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else Flower installs, and then runs, another torch
        **OBJECT_SIZE,
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(task_poll_s),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray's default of 15 would slow silos down on a machine with other work
    }


def socket_path(env: Mapping[str, str] = os.environ) -> str:
    """Return the path of the Unix socket of a federation's server.

    Args:
        env: environment of one of its processes, by default of this one.

    Raises:
        InputError: it is not that of a federation.
    """
    return _variable(_SOCKET_VARIABLE, env)


def home_path(env: Mapping[str, str] = os.environ) -> str:
    """Return the path of a federation's folder; argument and error as for :func:`socket_path`."""
    return _variable(_HOME_VARIABLE, env)


def _variable(name: str, env: Mapping[str, str]) -> str:
    if name not in env:
        raise InputError("this command is started by 'sase federate' and 'sase silo' only")
    return env[name]


def find_pids(home: Path) -> set[int]:
    """Return the ids of all running processes of the federation in ``home``, without this one and its ancestors."""
    variable, found, parents = os.fsencode(f"{_HOME_VARIABLE}={home}"), set[int](), dict[int, int]()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = (folder / "stat").read_text()
            state, parent = status[status.rindex(")") + 2 :].split()[:2]
            if state == "Z":
                continue
            parents[int(folder.name)] = int(parent)
            if variable in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:  # exited meanwhile, or belongs to another user
            continue
    # The SuperExec hides its environment, so it is found as a child of a process that does not.
    while children := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= children
    return found - _self_and_ancestors(parents)


def terminate_federation(home: Path, grace_s: float = 10.0) -> int:
    """Terminate every process of the federation in ``home`` and return how many there were.

    Args:
        home: the federation's folder.
        grace_s: seconds between SIGTERM and SIGKILL.
    """
    signalled, deadline = set[int](), time.monotonic() + grace_s
    while found := find_pids(home):
        expired = time.monotonic() > deadline
        for pid in found if expired else found - signalled:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if expired else signal.SIGTERM)
        signalled |= found
        time.sleep(0.1)
    return len(signalled)


@contextmanager
def supervised_federation(home: Path) -> Iterator[None]:
    """Lock the federation in ``home``; terminate its processes on entry (left by a killed run) and on exit.

    What this process and its children write in the block, and what is in ``home``, is private to this user.

    Raises:
        InputError: another process has the lock.
    """
    with private_files(), folder_lock(home):
        try:
            terminate_federation(home)
            make_private(home)
            with _sigterm_as_interrupt():
                yield
        finally:
            terminate_federation(home)


@contextmanager
def runtime_folder(home: Path) -> Iterator[Path]:
    """Yield a temporary folder of mode 0700 for a federation's sockets, removed at the end, as is one of a killed run.

    Raises:
        InputError: its path would be longer than the path of a socket may be.
    """
    if len(os.fsencode(_FOLDER_PREFIX)) > _MAX_PREFIX:
        raise InputError(f"{_FOLDER_PREFIX}: too long for the path of a socket; set TMPDIR to a shorter one")
    record = home / "runtime_folder"
    if record.exists() and record.read_text().startswith(_FOLDER_PREFIX):
        shutil.rmtree(record.read_text(), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=_FOLDER_PREFIX)
    write_text(record, folder)
    try:
        yield Path(folder)
    finally:
        terminate_federation(home)
        shutil.rmtree(folder, ignore_errors=True)
        record.unlink()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in the block, so that its child processes are terminated too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def wait_until_serving(
    process: subprocess.Popen, env: Mapping[str, str], log_path: Path, timeout_s: float = 120.0
) -> None:
    """Wait until a SuperLink accepts connections.

    Args:
        process: the SuperLink.
        env: its environment, of :func:`federation_environment`.
        log_path: its output.
        timeout_s: how long to wait.

    Raises:
        InputError: it exited, or did not answer in time; with the last line of its log.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(socket_path(env))
            return
        time.sleep(0.1)
    what = f"did not answer in {timeout_s:.0f} s" if process.poll() is None else f"exited with status {process.poll()}"
    raise InputError(f"{log_path}: the SuperLink {what}: {last_line(log_path)}")


def _self_and_ancestors(parents: dict[int, int]) -> set[int]:
    ancestors, pid = set[int](), os.getpid()
    while pid and pid not in ancestors:
        ancestors.add(pid)
        pid = parents.get(pid, 0)
    return ancestors
