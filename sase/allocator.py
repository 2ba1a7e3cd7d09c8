"""What glibc does with freed memory; without glibc, the functions do nothing."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4  # of malloc.h
_TRIM_THRESHOLD_BYTES = 2**31 - 1
_TOP_PAD_BYTES = 2**28
_LARGE_BYTES = 128 * 1024


def keep_freed_memory() -> None:
    """Have freed memory kept for later allocations.

    A training step frees and allocates the same hundreds of megabytes over and over. By default, large blocks are
    returned to the system, and the page faults of getting them back take a sixth of a step.
    """
    _mallopt((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES), (_M_TOP_PAD, _TOP_PAD_BYTES))


def return_large_blocks() -> None:
    """Have blocks of 128 KiB and more returned to the system as soon as they are freed.

    By default, after the first large block all smaller ones share the heap of their thread, which keeps what is freed.
    """
    _mallopt((_M_MMAP_THRESHOLD, _LARGE_BYTES))


def return_freed_memory() -> None:
    """Return what is free now to the system, which takes milliseconds."""
    if (malloc_trim := _function("malloc_trim")) is not None:
        malloc_trim(ctypes.c_size_t(0))


def _mallopt(*options: tuple[int, int]) -> None:
    if (mallopt := _function("mallopt")) is not None:
        for option, value in options:
            mallopt(option, value)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
