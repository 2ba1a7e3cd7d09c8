"""What a server and its silos exchange in a round, whatever carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Prefixes of the names of what accompanies the network's arrays, one array for each trained weight:
CONTROL = "control/"  # SCAFFOLD's control variates
FIRST, SECOND = "adam/first/", "adam/second/"  # moments of Adam, free of the bias of their start at zero
COMPANIONS = (CONTROL, FIRST, SECOND)


def without_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names have the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Instruction:
    """What the server sends to the silos of a round at its start.

    Attributes:
        round: from 1.
        arrays: the global model by the names of its state dict: weights and norm statistics (float32), counters (int);
            what accompanies them, under the prefixes of :data:`COMPANIONS`. Without the constants of the network.
        config: plain types that JSON can represent: ``train`` and ``federated`` (the two configs as mappings),
            ``experiment`` (an identifier), ``best_round`` (the best so far, 0 for none).
        silos: those that take part; None for all. Silos do not receive it.
    """

    round: int
    arrays: dict[str, np.ndarray]
    config: dict[str, Any]
    silos: tuple[int, ...] | None = None

    def asks(self, silo: int) -> bool:
        """Whether a silo takes part."""
        return self.silos is None or silo in self.silos

    @property
    def model(self) -> dict[str, np.ndarray]:
        """The arrays of the network."""
        return {name: value for name, value in self.arrays.items() if not name.startswith(COMPANIONS)}

    @property
    def control(self) -> dict[str, np.ndarray]:
        """Parameter name to SCAFFOLD's global control variate; empty if there is none (yet)."""
        return without_prefix(self.arrays, CONTROL)


@dataclass(frozen=True)
class Reply:
    """The answer of a silo.

    Attributes:
        silo: its index.
        round: of the instruction.
        arrays: from :func:`sase.federated.payload.encode` (float32, uint16, int8 or int64 arrays).
        metrics: name to float, with the same names from every silo: ``examples`` (number of segments in an epoch),
            ``steps``, ``bad_steps``, ``loss`` (mean), ``last_loss`` (mean of the last local epoch), ``update_norm``,
            ``bytes``, ``seconds``, ``train_began`` (by the silo's clock), ``train_seconds``.
    """

    silo: int
    round: int
    arrays: Mapping[str, np.ndarray]
    metrics: dict[str, float] = field(default_factory=dict)


# What an engine does with a reply on arrival: returns the same one, with its arrays in memory or on disk.
Keep = Callable[[Reply], Reply]


def in_memory(reply: Reply) -> Reply:
    """Return the reply as it is."""
    return reply


# Sends an instruction to the silos; returns their replies and, for each silo that failed, which one and why.
Exchange = Callable[[Instruction], tuple[Sequence[Reply], Sequence[str]]]
