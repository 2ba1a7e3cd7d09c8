"""Child processes that end with their parent, their environment and logs, and a lock on a folder."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import sase
from sase.errors import InputError

_PR_SET_PDEATHSIG = 1  # of prctl(2): Linux only, like the recipes
_libc = ctypes.CDLL(None)

log = logging.getLogger(__name__)


def child_environment(threads: int) -> dict[str, str]:
    """Return this process's environment for a child that imports this package and uses ``threads`` CPU threads."""
    package = str(Path(sase.__file__).parent.parent)
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }


def sase_command(*arguments: object) -> list[str]:
    """Return the command line of ``sase ARGUMENTS...`` with this Python."""
    return [sys.executable, "-m", "sase.bin.main", *map(str, arguments)]


def start(command: Iterable[object], env: Mapping[str, str], log_path: Path) -> subprocess.Popen[bytes]:
    """Start a child that is killed with this process, its output appended to ``log_path``."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            [str(argument) for argument in command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=kill_with_parent,
        )


def kill_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; :func:`start` calls it in every child."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def last_line(path: Path) -> str:
    """Return the last non-blank line of a log; an empty string if there is none, or no file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def terminated_as_exit() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit in the block, so that its ``finally`` clauses run.

    A signal that is ignored (``nohup``) or handled already is left alone. The exit status is 128 + the signal's number.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handled = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        handled = []  # only the main thread may set handlers
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def folder_lock(folder: Path, shared: bool = False, name: str = "lock") -> Iterator[None]:
    """Lock a folder, so that no second process writes to it.

    The kernel releases the lock of a killed process. On a file system without locks, a warning is logged. A folder that
    cannot be written to needs no lock.

    Args:
        folder: created if necessary.
        shared: with others that lock it shared, such as the jobs of a stage; not with a process that has it alone.
        name: of the lock file, for several locks in one folder.

    Raises:
        InputError: another process has locked it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / name, "a")  # noqa: SIM115, open while the lock is needed
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: locked by another process that is running; wait for it or stop it") from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); make sure that no other process writes to it", folder, error)
        yield
