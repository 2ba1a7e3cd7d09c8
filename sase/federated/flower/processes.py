"""Processes of one federation of the Flower engines: started, found again by what marks them, and ended.

Flower detaches some of its processes (the superlink's executor, Ray's daemons), and a killed parent leaves others
behind. So every process of a federation carries a mark in its environment, the federation's home folder, and whoever
starts the same federation again, or ends it, finds them by it. Linux only, as the recipes are.
"""

import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from sase.errors import InputError
from sase.processes import child_environment, folder_lock, kill_with_parent, last_line

_MARK = "SASE_FEDERATION"


def federation_environment(home, threads):
    """Return the environment of a federation's processes: nothing of the user's own Flower and Ray, nothing sent home.

    Args:
        home: the federation's folder; Flower's own is ``home/flwr``.
        threads: CPU threads of each process, unless the environment already has ``OMP_NUM_THREADS``.
    """
    inherited = child_environment(threads)
    return {
        **{name: value for name, value in inherited.items() if not name.startswith(("FLWR_", "RAY_"))},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        _MARK: str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else Flower installs, and then runs, another torch
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray would be nicer, by 15, than whatever else this machine does
    }


def die_with_parent():
    """Have this process, if it is one of a federation's, killed when its parent ends.

    Flower's app processes call it themselves: their executor, when it ends, leaves them behind, to train on and to
    write where a new server writes already.
    """
    if _MARK not in os.environ:
        return
    kill_with_parent()
    if os.getppid() == 1:  # too late to be told
        os._exit(1)


def federation_pids(home):
    """Return the ids of all running processes that were started for the federation in ``home``."""
    mark, marked, parents = os.fsencode(f"{_MARK}={home}"), set(), {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = (folder / "stat").read_text()
            state, parent = status[status.rindex(")") + 2 :].split()[:2]
            if state == "Z":
                continue
            parents[int(folder.name)] = int(parent)
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                marked.add(int(folder.name))
        except OSError:  # ended meanwhile, or not ours to look into
            continue
    # Flower's executor hides its environment, so it is found as a child of a process that does not.
    while grown := {pid for pid, parent in parents.items() if parent in marked} - marked:
        marked |= grown
    return marked - _self_and_ancestors(parents)


def end(home, patience_s=10.0):
    """End every process of the federation in ``home``, first asking, then insisting; return how many there were."""
    asked, deadline = set(), time.monotonic() + patience_s
    while found := federation_pids(home):
        insist = time.monotonic() > deadline
        for pid in found if insist else found - asked:
            try:
                os.kill(pid, signal.SIGKILL if insist else signal.SIGTERM)
            except ProcessLookupError:
                pass
        asked |= found
        time.sleep(0.1)
    return len(asked)


@contextmanager
def exclusive_federation(home):
    """Hold the federation in ``home`` for this process; end what an earlier, killed one left, and all of it at the end.

    Raises:
        InputError: another process holds it.
    """
    with folder_lock(home):
        try:
            end(home)
            with _ended_by_sigterm():
                yield
        finally:
            end(home)


@contextmanager
def _ended_by_sigterm():
    """Let SIGTERM end the block as Ctrl-C does, so that what it started is ended too."""

    def stop(number, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever called us sees to signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_healthy(process, port, ca_file, log_path, timeout_s=120.0):
    """Wait until a superlink on the loopback answers.

    Args:
        ca_file: the certificate that signed its own; None when it does not encrypt.

    Raises:
        InputError: it ended instead, or did not answer in time; with the last lines of its log.
    """
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    address = f"{'https' if ca_file else 'http'}://127.0.0.1:{port}/health"
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5, context=context):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    what = "did not answer" if process.poll() is None else f"ended with status {process.poll()}"
    raise InputError(f"{log_path}: the superlink on port {port} {what}: {last_line(log_path)}")


def _self_and_ancestors(parents):
    line, pid = set(), os.getpid()
    while pid and pid not in line:
        line.add(pid)
        pid = parents.get(pid, 0)
    return line
