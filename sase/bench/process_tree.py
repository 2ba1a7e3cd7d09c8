"""CPU time and memory of this process's descendants, those that outlived their parents included (Linux)."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

_NOT_OF_FILES = ("Pss_Anon:", "Pss_Shmem:")
_SET_CHILD_SUBREAPER = 36  # of prctl(2)


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parents exit, so that their CPU time is counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def cpu_seconds(counts: Callable[[str], bool] | None = None) -> float:
    """Return the CPU time of all descendants so far, running or not, in seconds.

    Args:
        counts: of those only that run and whose command line ``counts``; None for all.
    """
    done, ticks = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    for pid, fields in _descendants():
        if counts is None or counts(_command_line(pid)):
            ticks += sum(map(int, fields[11:15]))  # its own, and of its children that it has waited for
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    return seconds if counts is not None else done.ru_utime + done.ru_stime + seconds


def memory_bytes(counts: Callable[[str], bool]) -> int:
    """Return the memory of the descendants whose command line ``counts``, in bytes; what processes share is divided.

    Pages of files are left out: how much of the libraries is in memory, and who shares it, differs from run to run by
    more than a hundred silos take.
    """
    total = 0
    for pid, _ in _descendants():
        with suppress(OSError):
            if counts(_command_line(pid)):
                lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
                total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(_NOT_OF_FILES))
    return total


def reap_orphans(children: Collection[int]) -> None:
    """Wait for all adopted descendants that have exited, but not for ``children``: others wait for these."""
    for pid, fields in list(_descendants()):
        if fields[0] == "Z" and int(fields[1]) == os.getpid() and pid not in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _command_line(pid: int) -> str:
    """Return the command line of a process; an empty string when it has exited."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _descendants() -> Iterator[tuple[int, list[str]]]:
    """Yield (process id, the fields of its ``stat`` after the name: state, parent ...)."""
    found: dict[int, list[str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                status = (folder / "stat").read_text()
                found[int(folder.name)] = status[status.rindex(")") + 2 :].split()
    inside = {os.getpid()}
    while more := {pid for pid, fields in found.items() if int(fields[1]) in inside} - inside:
        inside |= more
    for pid in inside - {os.getpid()}:
        yield pid, found[pid]
