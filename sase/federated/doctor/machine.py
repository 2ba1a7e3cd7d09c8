"""The silo's machine: its disk and the device that it trains on."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import torch

from sase.federated.doctor.findings import FAILED, OK, Finding
from sase.machine import cpu_name

_NEEDED_BYTES = 1 << 30  # state of two rounds, Flower's database and logs; the largest preset's state is 50 MB
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MATRIX = 256


def check_disk(state_dir: Path) -> Generator[Finding]:
    """Yield findings about the folder for a silo's state: that it can be written to, and how much is free."""
    folder = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        message, other = f"{folder}: cannot be written to ({error.strerror})", "or name another folder with --state-dir"
        what = f"free {_NEEDED_BYTES / 1e9:.0f} GB" if error.errno in _FULL else "give this user access to it"
        yield Finding("disk", FAILED, message, f"{what}, {other}")
        return
    free = shutil.disk_usage(folder).free
    message = f"{state_dir}: {free / 1e9:.1f} GB free"
    if free < _NEEDED_BYTES:
        remedy = f"free {_NEEDED_BYTES / 1e9:.0f} GB, or name another folder with --state-dir"
        yield Finding("disk", FAILED, message, remedy)
    else:
        yield Finding("disk", OK, message)


def check_device(device: str) -> Generator[Finding]:
    """Yield a finding about the device: whether it exists, and computes."""
    if device != "cpu" and not torch.cuda.is_available():
        built = "has no CUDA" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
        message = f"{device}: no GPU can be used (torch {torch.__version__} {built})"
        yield Finding("device", FAILED, message, "check nvidia-smi and the installed torch, or use --device cpu")
        return
    try:
        where = torch.device(device)
        ones = torch.ones(_MATRIX, _MATRIX, device=where)
        works = float((ones @ ones).mean()) == _MATRIX
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        yield Finding("device", FAILED, f"{device}: {first}", "see nvidia-smi for other processes, or use another")
        return
    if not works:
        yield Finding(
            "device", FAILED, f"{device}: computes wrong results", "reinstall its driver, or use --device cpu"
        )
    elif where.type == "cuda":
        free, total = torch.cuda.mem_get_info(where)
        name = torch.cuda.get_device_name(where)
        yield Finding("device", OK, f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    else:
        yield Finding("device", OK, f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores")
