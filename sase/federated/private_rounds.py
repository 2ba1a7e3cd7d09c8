"""What differential privacy asks of the server: who is drawn, with which norm and noise, and what is recorded."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sase.federated import privacy
from sase.federated.admission import Admitted
from sase.federated.clipping import WITHIN, next_norm, share_within, update_noise
from sase.federated.config import FederatedConfig
from sase.federated.participation import SecretSampling
from sase.training.checkpoint import check_fields

CLIP_NORM = "clip_norm"  # in a round's record, with dp_clip_quantile

log = logging.getLogger(__name__)
Record = Mapping[str, Any]


class PrivateRounds:
    """The rounds of an experiment.

    Args:
        config: of the federation.
        exp_dir: the experiment folder, which keeps the secret of ``sampling: poisson``.

    Raises:
        InputError: ε cannot be accounted for.
    """

    def __init__(self, config: FederatedConfig, exp_dir: str | Path) -> None:
        self.config = config
        if config.dp_noise_multiplier:
            privacy.require_accountable(config)
        self._sampling: SecretSampling | None = None
        if config.sampling == "poisson":
            self._sampling = SecretSampling(exp_dir, config.participants / config.num_silos)

    def require_secret(self, rounds: int) -> None:
        """Raise InputError if silos were drawn in completed rounds by a secret that is lost."""
        if self._sampling is not None:
            self._sampling.load(rounds)

    def drawn(self, number: int) -> tuple[int, ...] | None:
        """Return the silos of a round, always the same; none for a round of noise only; None for another sampling."""
        if self._sampling is None:
            return None
        silos = self._sampling.silos(self.config.num_silos, number)
        return silos if len(silos) >= privacy.least_drawn(self.config) else ()

    def required(self, silos: Sequence[int] | None) -> int:
        """Return the number of valid replies that complete a round of these silos."""
        return self.config.needed_silos if silos is None else len(silos)

    def terms(self, history: Sequence[Record], silos: Sequence[int] | None) -> dict[str, Any]:
        """Return the keys of the federated config that are different in the next round."""
        config, terms = self.config, {}
        if config.dp_clip_quantile:
            terms["dp_clip_norm"] = self.norm(history)
        if silos:
            factor = math.sqrt(config.participants / len(silos))
            terms |= {"dp_noise_multiplier": factor * config.dp_noise_multiplier, "min_silos": len(silos)}
            if config.dp_clip_quantile:
                terms["dp_bit_noise"] = factor * config.bit_noise
        return terms

    def norm(self, history: Sequence[Record]) -> float:
        """Return the norm to which updates are clipped in the next round: it follows from the last record."""
        if not history or not self.config.dp_clip_quantile:
            return self.config.dp_clip_norm
        check_fields(history[-1], {CLIP_NORM: (int, float), WITHIN: (int, float)})
        return next_norm(self.config, history[-1][CLIP_NORM], history[-1][WITHIN])

    def noise(
        self, reference: Mapping[str, np.ndarray], weights: Sequence[str], history: Sequence[Record]
    ) -> dict[str, np.ndarray]:
        """Return the global model plus the noise of a round without updates.

        Args:
            reference: the global model, name to array.
            weights: names of those that are trained.
            history: the records of the completed rounds.

        Returns:
            name to array; the noise is that of a sum of updates, which is divided by their expected number later.
        """
        generator = np.random.default_rng(secrets.randbits(256))
        deviation = math.sqrt(self.config.participants) * update_noise(self.config) * self.norm(history)
        noised = {
            name: reference[name] + deviation * generator.standard_normal(reference[name].shape) for name in weights
        }
        return {**reference, **noised}

    def record(self, history: Sequence[Record], replies: Sequence[Admitted], rounds: int) -> dict[str, float]:
        """Return what the record of a round has about privacy; log ε.

        Args:
            history: the records of the rounds before.
            replies: of the round; none for a round of noise only.
            rounds: completed with this one.
        """
        config, record = self.config, {}
        if config.dp_clip_quantile:
            bits = [reply.metrics[WITHIN] for reply in replies]
            if not bits:
                bits = [math.sqrt(config.participants) * config.bit_noise * _normal()]
            record = {CLIP_NORM: self.norm(history), WITHIN: share_within(config, bits)}
        if config.dp_noise_multiplier:
            taken = [*(tuple(map(int, of["silos"])) for of in history), tuple(reply.silo for reply in replies)]
            account = privacy.account(config, rounds, taken)
            log.info("%s", account)
            record |= {"epsilon": round(account.models, 4), "epsilon_uploads": round(account.uploads, 4)}
        return record


def _normal() -> float:
    return float(np.random.default_rng(secrets.randbits(256)).standard_normal())
