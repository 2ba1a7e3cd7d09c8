"""Processes that this one starts, that die with it, and whose last words can be told."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import sase
from sase.errors import InputError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2): Linux only, as the recipes are
_libc = ctypes.CDLL(None)


def child_environment(threads):
    """Return this process's environment for another one of this package, with ``threads`` threads of the processor."""
    package = str(Path(sase.__file__).parent.parent)
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }


def sase_command(*words):
    """Return the command line of ``sase WORDS...`` with this Python."""
    return [sys.executable, "-m", "sase.bin.main", *map(str, words)]


def start(command, env, log_path):
    """Start a process that dies with this one, its output appended to ``log_path``; return the ``Popen``."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=kill_with_parent,
        )


def kill_with_parent():
    """Have this process killed when its parent ends: what :func:`start` runs in every child."""
    _libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def last_line(path):
    """Return the last line with something on it of a log, or nothing."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def folder_lock(folder):
    """Hold a folder for this process, so that no second one writes there.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: this is running already; wait for it or stop it first") from None
        yield
