"""What a silo has sent, counted by the silo, and whether its limits of differential privacy allow one more upload.

Every upload is a release of the silo's data: also one of a repeated round, of another experiment, or one that the
server says it has not received. So the silo itself counts them, in its state folder, before it sends them. Uploads with
noise of z times the clipping norm compose to μ² = Σ (2/z)² (Dong et al. 2022): replacing all of the silo's data moves
an update by up to twice that norm.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sase import jsonfile
from sase.config import from_mapping
from sase.errors import InputError
from sase.federated.config import FederatedConfig, checked
from sase.federated.limits import PrivacyLimits
from sase.federated.privacy import epsilon_of
from sase.private import private_files
from sase.processes import folder_lock
from sase.training.checkpoint import check_fields

FILE = "privacy.json"  # in a silo's state folder
_INFINITE = "infinite"  # μ² once an upload had no noise; JSON has no infinity

log = logging.getLogger(__name__)


class PrivacyBudget:
    """What a silo has sent so far.

    Args:
        silo: its index, for messages.
        state_dir: the silo's state folder.
        limits: of the silo.
    """

    def __init__(self, silo: int, state_dir: str | Path, limits: PrivacyLimits) -> None:
        self.silo, self.path, self.limits = silo, Path(state_dir) / FILE, limits

    def require(self, federated: Mapping[str, Any]) -> None:
        """Raise InputError if the server asks for an upload that this silo's limits do not allow.

        Args:
            federated: the server's federated config, as a mapping.
        """
        self._after(federated)

    def charge(self, federated: Mapping[str, Any]) -> float:
        """Count one more upload, before it is made; return ε of all of them, inf if one had no noise.

        Raises:
            InputError: as :meth:`require`, or another task of this silo counts at this moment; nothing is counted then.
        """
        with private_files(), folder_lock(self.path.parent, name=f"{FILE}.lock"):
            uploads, mu_squared, epsilon = self._after(federated)
            stored = mu_squared if mu_squared < math.inf else _INFINITE
            jsonfile.write(self.path, {"uploads": uploads, "mu_squared": stored})
        if epsilon < math.inf:
            log.info("silo %d: ε of its %d uploads against the server: %.3g", self.silo, uploads, epsilon)
        return epsilon

    def _after(self, federated: Mapping[str, Any]) -> tuple[int, float, float]:
        """Return the number of uploads, their μ² and ε after one more."""
        noise = float(federated["dp_noise_multiplier"]) if federated["dp_clip_norm"] else 0.0
        who = f"silo {self.silo} refuses this round"
        if self.limits.demanded:
            checked(from_mapping(FederatedConfig, dict(federated)))  # what the server should have checked
            if not (0 < noise < math.inf and noise >= self.limits.min_noise):
                least = f"at least {self.limits.min_noise:g} (--min-noise)" if self.limits.min_noise else "some"
                raise InputError(f"{who}: the server asks for noise of {noise:g} times the norm, it demands {least}")
        uploads, mu_squared = self._read()
        uploads, mu_squared = uploads + 1, mu_squared + (4.0 / noise**2 if noise > 0 else math.inf)
        epsilon = epsilon_of(math.sqrt(mu_squared), self.limits.delta) if mu_squared < math.inf else math.inf
        if epsilon > self.limits.max_epsilon:
            raise InputError(
                f"{who}: after upload {uploads} ε would be {epsilon:.3g} at δ = {self.limits.delta:g}, more than "
                f"{self.limits.max_epsilon:g} (--max-epsilon); {self.path} has the count"
            )
        return uploads, mu_squared, epsilon

    def _read(self) -> tuple[int, float]:
        """Return the number of uploads and their μ²."""
        if not self.path.exists():
            return 0, 0.0
        state = jsonfile.read(self.path)
        try:
            check_fields(state, {"uploads": int, "mu_squared": (int, float, str)})
            mu_squared = math.inf if state["mu_squared"] == _INFINITE else float(state["mu_squared"])
            if state["uploads"] < 0 or not mu_squared >= 0:
                raise ValueError
        except (InputError, ValueError, TypeError):
            raise InputError(f"{self.path}: damaged; restore it: it counts what this silo has sent") from None
        return state["uploads"], mu_squared
