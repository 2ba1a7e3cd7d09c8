"""What is left of large messages that have passed through a process of the server."""

import gc

from sase.allocator import return_freed_memory

MAX_BYTES = 2_000_000  # of messages, after which there is a collection


def make_collections_cheap() -> None:
    """Leave all objects that exist now, those of modules above all, out of garbage collections from now on."""
    gc.collect()
    gc.freeze()


class Garbage:
    """Collects what is left of messages, which is in reference cycles, as soon as it may be large.

    Python collects when there are many objects, and these are few, of up to 5 MiB each. Threads may share one: at worst
    they collect twice.
    """

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, size: int) -> None:
        """Count ``size`` bytes that have passed through."""
        self._bytes += size

    def collect(self) -> None:
        """Free what is left of messages and return it to the system, if they were large."""
        if self._bytes > MAX_BYTES:
            self._bytes = 0
            gc.collect()
            return_freed_memory()
