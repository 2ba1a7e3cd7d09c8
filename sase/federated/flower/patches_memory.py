"""How much memory the SuperLink takes for the messages that pass through it, whatever the number of silos."""

import ctypes
import gc
from asyncio.sslproto import SSLProtocol

from sase.federated.flower.patches_busy import replace, set_pragmas

# Of each connection to the database. Flower's 64 MB fill with updates, which are written once and read once, and there
# are a dozen connections.
CACHE_BYTES = 500_000
# Objects of messages, 5 MiB at most, get memory of their own, which is returned when it is freed. By default, glibc
# keeps what a thread has freed, and there are dozens of threads.
_LARGE_BYTES = 128 * 1024
_THRESHOLDS = 700, 10, 1  # of the garbage collector; a full collection after 14,000 new objects
_M_MMAP_THRESHOLD = -3  # of malloc.h
# Of each TLS connection, one or more for each silo. A TLS record has 16 KiB at most, asyncio's buffer 256 KiB.
TLS_BUFFER_BYTES = 32 * 1024


def keep_no_messages() -> None:
    """Make the SuperLink of this process hold messages in memory only while they pass through."""
    set_pragmas(cache_size=-(CACHE_BYTES // 1000), mmap_size=0)  # a negative size is in KiB
    replace(SSLProtocol, "max_size", TLS_BUFFER_BYTES)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # of glibc
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def collect_messages() -> None:
    """Have Python find soon, and cheaply, what is left of requests; call it when all modules are imported.

    A request is part of reference cycles, and with it an object of 5 MiB. By default, a full collection waits until
    a quarter of all objects is new, of all modules' here, and looks at all of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
