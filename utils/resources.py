"""Parse memory sizes and time limits of tasks, and measure the cores and memory of this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")


def parse_memory(text: str) -> int:
    """Return the bytes of a size such as ``4G``, ``500M`` or, in megabytes as for Slurm, ``4000``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.upper())
    if not match or not float(match[1]):
        raise ValueError("must be a size such as 4G or 500M")
    return int(float(match[1]) * _UNITS[match[2] or "M"])


def parse_time(text: str) -> int:
    """Return the seconds of a time limit in one of Slurm's formats.

    These are minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
    days-hours:minutes:seconds.
    """
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError("must be minutes, minutes:seconds or [days-]hours:minutes:seconds")
    clock = [int(part) for part in match["clock"].split(":")]
    if match["days"]:
        hours, minutes, seconds = (clock + [0, 0])[:3]
    else:
        hours, minutes, seconds = {1: [0, *clock, 0], 2: [0, *clock], 3: clock}[len(clock)]
    total = ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise ValueError("must be more than zero")
    return total


def format_time(seconds: int) -> str:
    """Return ``hours:minutes:seconds``, which both Slurm and SGE accept."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def count_cores() -> int:
    """Return the number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of_machine() -> tuple[int, int]:
    """Return total and available bytes of this machine, or of the control group of this process."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = free = page * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        free = next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), free)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or no limit
        return total, free
    return min(total, limit), max(0, min(free, limit - used))
