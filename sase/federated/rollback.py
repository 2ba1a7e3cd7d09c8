"""The search for the silos that made the global model collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Silo = TypeVar("Silo")


def leave_out(silos: Sequence[Silo], least: int, score: Callable[[Sequence[Silo]], float]) -> Iterator[list[Silo]]:
    """Leave out silos greedily, one after another: each time the one without which the others score best.

    Args:
        silos: all of a round.
        least: at least this many remain.
        score: of the model that some of the silos make; higher is better, and what is not finite is worst.

    Yields:
        The silos that remain, in their order.
    """

    def worth(kept: Sequence[Silo]) -> float:
        value = score(kept)
        return value if math.isfinite(value) else -math.inf

    kept = list(silos)
    while len(kept) > least:
        kept = max((kept[:index] + kept[index + 1 :] for index in range(len(kept))), key=worth)
        yield kept
