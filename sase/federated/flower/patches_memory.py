"""How much memory the SuperLink takes for the messages that pass through it, whatever the number of silos."""

import asyncio.constants
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
_M_MMAP_THRESHOLD = -3  # of malloc.h
# Of each TLS connection, one or more for each silo. A TLS record has 16 KiB at most; asyncio has buffers of 256 KiB to
# receive and to read, and of 512 KiB to send, which OpenSSL keeps for as long as the connection lasts.
TLS_BUFFER_BYTES = 32 * 1024


def keep_no_messages() -> None:
    """Make the SuperLink of this process hold messages in memory only while they pass through."""
    set_pragmas(cache_size=-(CACHE_BYTES // 1000), mmap_size=0)  # a negative size is in KiB
    replace(SSLProtocol, "max_size", TLS_BUFFER_BYTES)
    for direction in ("READ", "WRITE"):
        replace(asyncio.constants, f"FLOW_CONTROL_HIGH_WATER_SSL_{direction}", TLS_BUFFER_BYTES // 1024)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # of glibc
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def make_collections_cheap() -> None:
    """Leave the objects of all modules out of garbage collections from now on; call it when they are imported.

    A request is part of reference cycles, and with it an object of 5 MiB, so that there is a collection after each
    (:mod:`sase.federated.flower.bodies`).
    """
    gc.collect()
    gc.freeze()
