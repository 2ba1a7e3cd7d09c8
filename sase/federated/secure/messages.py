"""What server and silos send each other for a secure sum, whatever carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sase.federated.exchange import Instruction

KEYS, SHARES, MASKED, AGREE, UNMASK = PHASES = ("keys", "shares", "masked", "agree", "unmask")


@dataclass(frozen=True)
class Request:
    """One of the five messages of :mod:`sase.federated.secure.silo`, the same one for all silos that take part.

    Attributes:
        phase: one of :data:`PHASES`.
        instruction: of the round; its arrays, the global model, are there in the phase ``masked`` only.
        content: plain types that JSON can represent.
    """

    phase: str
    instruction: Instruction
    content: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The answer of a silo.

    Attributes:
        silo: its index.
        content: plain types that JSON can represent.
        arrays: the masked update, in the phase ``masked``.
    """

    silo: int
    content: Any
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


# Sends a request to the silos that its instruction asks; returns their answers and, for each silo that failed, which
# one and why.
Carrier = Callable[[Request], tuple[Sequence[Answer], Sequence[str]]]


def without_model(instruction: Instruction) -> Instruction:
    """Return an instruction without the global model."""
    return replace(instruction, arrays={})


def by_silo(answers: Sequence[Answer]) -> Mapping[int, Answer]:
    """Return silo to answer; of several, the first one counts."""
    return {answer.silo: answer for answer in reversed(answers)}
