"""The batches of an epoch, in order; for a GPU, each is drawn while it trains with the one before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sase.data.remix import Batch, Mixtures


def draw_batches(mixtures: Mixtures, numbers: range) -> Iterator[Batch]:
    """Yield the batches of these numbers.

    Random numbers and computed noises are drawn by the CPU. A GPU would wait for them between two steps, so a thread
    draws the next batch meanwhile; a CPU has nothing else to do. The batches are the same either way.
    """
    if mixtures.pairs.device.type == "cpu" or not numbers:
        yield from map(mixtures.batch, numbers)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ahead = thread.submit(mixtures.batch, numbers[0])
        for number in numbers[1:]:
            batch, ahead = ahead.result(), thread.submit(mixtures.batch, number)
            yield batch
        yield ahead.result()
