"""How much memory the SuperLink takes for the messages that pass through it, whatever the number of silos."""

import asyncio.constants
from asyncio.sslproto import SSLProtocol

from sase.allocator import return_large_blocks
from sase.federated.flower.patches_busy import replace, set_pragmas

# Of each connection to the database. Flower's 64 MB fill with updates, which are written once and read once, and there
# are a dozen connections.
CACHE_BYTES = 500_000
# Of each TLS connection, one or more for each silo. A TLS record has 16 KiB at most; asyncio has buffers of 256 KiB to
# receive and to read, and of 512 KiB to send, which OpenSSL keeps for as long as the connection lasts.
TLS_BUFFER_BYTES = 16 * 1024


def keep_no_messages() -> None:
    """Make the SuperLink of this process hold messages in memory only while they pass through."""
    set_pragmas(cache_size=-(CACHE_BYTES // 1000), mmap_size=0)  # a negative size is in KiB
    replace(SSLProtocol, "max_size", TLS_BUFFER_BYTES)
    for direction in ("READ", "WRITE"):
        replace(asyncio.constants, f"FLOW_CONTROL_HIGH_WATER_SSL_{direction}", TLS_BUFFER_BYTES // 1024)
    return_large_blocks()
