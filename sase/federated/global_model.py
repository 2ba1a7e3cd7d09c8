"""The global model between two rounds, and what the replies of a round make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sase.federated.admission import Admitted
from sase.federated.aggregation import (
    Rule,
    aggregate,
    bounded_factors,
    largest_weight,
    limited,
    moving_average,
    nova_factors,
    silo_weights,
)
from sase.federated.config import FederatedConfig
from sase.federated.layout import Layout
from sase.federated.participation import staleness_factors
from sase.federated.server_optimiser import ServerOptimiser
from sase.federated.shared_moments import average_moments


@dataclass(frozen=True)
class GlobalModel:
    """The global model after a round.

    Attributes:
        newest: sent to the silos, name to array.
        averaged: scored and saved: ``newest`` or its moving average over rounds.
        optimiser: the server's, with its moments; not stepped in place.
        moments: those of Adam that silos share, prefix and name to array; empty without, and before the first round.
        silos: the replies that made it; none for a model that was not made in this process.
        alphas: their weights, (silos,).
    """

    newest: dict[str, np.ndarray]
    averaged: dict[str, np.ndarray]
    optimiser: ServerOptimiser
    moments: dict[str, np.ndarray] = field(default_factory=dict)
    silos: Sequence[Admitted] = ()
    alphas: np.ndarray = field(default_factory=lambda: np.ones(0))

    @property
    def not_finite(self) -> str:
        """The name of an array with NaN or infinity; empty if there is none."""
        return next((name for name, value in self.newest.items() if not np.isfinite(value).all()), "")

    def after(
        self, replies: Sequence[Admitted], config: FederatedConfig, layout: Layout, decay: float, folder: Path | None
    ) -> GlobalModel:
        """Return the global model that replies make of this one, which stays as it is.

        Args:
            replies: of the next round, sorted by silo.
            config: of the federation.
            layout: of the network.
            decay: of the moving average; 0 for none.
            folder: for temporary files, see :class:`sase.federated.aggregation.Rule`.
        """
        alphas, optimiser = _weights(replies, config), self.optimiser.copy()
        steps = [reply.metrics["steps"] for reply in replies]
        models, shares = [reply.arrays for reply in replies], alphas
        factors = None
        if config.fednova and not config.secure_aggregation:
            norms, largest = [reply.update_norm for reply in replies], largest_weight(config.max_weight, len(replies))
            factors = bounded_factors(alphas, nova_factors(alphas, steps), norms, largest)
        if config.secure_aggregation:  # each is the mean of all, with FedNova's factors
            models, shares = models[:1], np.ones(1)
        if config.sampling == "poisson":  # the sum over the expected number of silos, however many are sampled
            factors = np.full(len(models), len(replies) / config.participants)
        newest = aggregate(
            self.newest,
            models,
            shares,
            layout,
            optimiser,
            factors,
            Rule(config.aggregation, config.max_poisoned, config.norm == "local", config.layerwise, folder),
        )
        averaged = moving_average(self.averaged, newest, decay, layout) if decay else newest
        robust = config.aggregation not in ("mean", "clipped_mean")
        moments = average_moments([reply.moments for reply in replies], alphas, robust)
        return GlobalModel(newest, averaged, optimiser, moments, replies, alphas)

    def with_noise(
        self, noised: Mapping[str, np.ndarray], config: FederatedConfig, layout: Layout, decay: float
    ) -> GlobalModel:
        """Return the global model after a round without updates: this one moved by noise as by a sum of updates.

        Args:
            noised: this model with the noise of a sum, name to array.
            config, layout, decay: as for :meth:`after`.
        """
        optimiser = self.optimiser.copy()
        share = np.full(1, 1.0 / config.participants)
        newest = aggregate(self.newest, [noised], np.ones(1), layout, optimiser, share)
        averaged = moving_average(self.averaged, newest, decay, layout) if decay else newest
        return GlobalModel(newest, averaged, optimiser)


def new_optimiser(config: FederatedConfig) -> ServerOptimiser:
    """Return the server's optimiser before the first round."""
    name = "feddyn" if config.feddyn_alpha else config.server
    share = config.participants / config.num_silos
    rate = config.effective_server_lr
    return ServerOptimiser(name, rate, config.momentum, config.beta2, config.adaptivity, share)


def _weights(replies: Sequence[Admitted], config: FederatedConfig) -> np.ndarray:
    if config.secure_aggregation:
        return np.array([reply.metrics["alpha"] for reply in replies])
    alphas = silo_weights(
        config.strategy,
        [reply.metrics["examples"] for reply in replies],
        [reply.metrics["last_loss"] for reply in replies],
        [reply.gain_db or 0.0 for reply in replies],
        config.tau,
        config.gamma,
        config.alpha_min,
        config.max_weight,
    )
    if not any(reply.staleness for reply in replies):
        return alphas
    alphas = alphas * staleness_factors([reply.staleness for reply in replies])
    return limited(alphas / alphas.sum(), largest_weight(config.max_weight, len(alphas)))
