"""A silo's own limits of differential privacy, which no server can change."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from sase.errors import InputError


@dataclass(frozen=True)
class PrivacyLimits:
    """What a silo demands.

    Attributes:
        min_noise: least noise on an update, in units of the norm to which it is clipped.
        max_epsilon: largest ε of all that this silo has sent and is asked for, against the server.
        delta: δ of that ε.
    """

    min_noise: float = 0.0
    max_epsilon: float = math.inf
    delta: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.min_noise < math.inf:
            raise InputError(f"--min-noise {self.min_noise:g}: must be 0 or more")
        if not self.max_epsilon > 0:
            raise InputError(f"--max-epsilon {self.max_epsilon:g}: must be above 0")
        if not 0 < self.delta < 1:
            raise InputError(f"--delta {self.delta:g}: must be between 0 and 1")

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the limits."""
        return [field.name for field in fields(cls)]

    @property
    def demanded(self) -> bool:
        """Whether there is any limit."""
        return self.min_noise > 0 or self.max_epsilon < math.inf
