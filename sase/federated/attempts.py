"""The attempts at one round."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from sase.federated.exchange import Instruction
from sase.training.selection import SI_SNR


@dataclass
class Attempts:
    """The attempts at the current round: the instruction they share, and what failed so far."""

    instruction: Instruction
    started: float = field(default_factory=time.monotonic)
    count: int = 0
    failed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    rolled_back_from: float | None = None  # development SI-SNR (dB) of the model with all replies
    collapsed: bool = False  # whichever silos are left out

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = {"attempts": self.count, "failed": self.failed, "refused": self.refused}
        if self.rolled_back_from is not None:
            db = self.rolled_back_from
            result["rolled_back_from"] = {SI_SNR: db if math.isfinite(db) else None}
        if self.collapsed:
            result["collapsed"] = True
        return result
