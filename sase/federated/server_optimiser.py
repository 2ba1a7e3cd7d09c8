"""Server optimisers: how the global model moves along the averaged update.

``adam``, ``yogi``: Reddi et al. 2021; ``nesterov``, as the outer optimiser of local AdamW: DiLoCo, Douillard et al.
2023 (arXiv 2311.08105); ``feddyn``: Acar et al. 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sase.federated.aggregation import combine


class ServerOptimiser:
    """``plain``: w ← w + η Δ; ``momentum``: m ← β m + Δ, w ← w + η m; ``nesterov``: the same m, w ← w + η (β m + Δ).

    ``feddyn``: m ← m + p Δ, w ← w + Δ + m, where p is the share of the silos that take part in a round; m is −h/α of
    the paper. ``adam`` and ``yogi``: w ← w + η m / (√v + ε), with m ← β m + (1 − β) Δ without bias correction, and v
    starts at ε². ``adam``: v ← β₂ v + (1 − β₂) Δ²; ``yogi``: v ← v − (1 − β₂) Δ² sign(v − Δ²). Only trained weights
    are optimised: a step could make the variances among the norm statistics negative.

    Args:
        name: ``plain``, ``momentum``, ``nesterov``, ``adam``, ``yogi`` or ``feddyn``.
        rate: η.
        momentum: β.
        beta2: β₂.
        adaptivity: ε.
        share: p.
    """

    def __init__(
        self,
        name: str = "plain",
        rate: float = 1.0,
        momentum: float = 0.9,
        beta2: float = 0.99,
        adaptivity: float = 1e-3,
        share: float = 1.0,
    ) -> None:
        self.name, self.rate, self.momentum, self.beta2, self.adaptivity = name, rate, momentum, beta2, adaptivity
        self.share = share
        self.first: dict[str, np.ndarray] = {}
        self.second: dict[str, np.ndarray] = {}

    def step(
        self,
        weights: Mapping[str, np.ndarray],
        average: dict[str, np.ndarray],
        silos: Sequence[Mapping[str, np.ndarray]],
        factors: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return the next weights.

        Args:
            weights: of the global model, name to array.
            average: ``w + Σ f_k (w_k − w)``, from :func:`sase.federated.aggregation.combine`.
            silos, factors: the arguments that gave ``average``.

        Returns:
            name to float64 array.
        """
        if self.name == "plain":
            # With η = 1 nothing is computed twice, so the weights of a single silo are returned bit for bit.
            return average if self.rate == 1.0 else combine(weights, silos, self.rate * np.asarray(factors))
        result = {}
        for name, value in weights.items():
            old = np.asarray(value, dtype=np.float64)
            result[name] = old + self.rate * self._direction(name, average[name] - old)
        return result

    def _direction(self, name: str, delta: np.ndarray) -> np.ndarray:
        first = self.first.get(name, np.zeros_like(delta))
        if self.name in ("momentum", "nesterov"):
            moved = self.first[name] = self.momentum * first + delta
            return moved if self.name == "momentum" else self.momentum * moved + delta
        if self.name == "feddyn":
            self.first[name] = first + self.share * delta
            return delta + self.first[name]
        self.first[name] = self.momentum * first + (1.0 - self.momentum) * delta
        second, square = self.second.get(name, np.full_like(delta, self.adaptivity**2)), delta**2
        if self.name == "adam":
            self.second[name] = self.beta2 * second + (1.0 - self.beta2) * square
        else:
            self.second[name] = second - (1.0 - self.beta2) * square * np.sign(second - square)
        return self.first[name] / (np.sqrt(self.second[name]) + self.adaptivity)

    def copy(self) -> ServerOptimiser:
        """Return an optimiser with the same moments, which steps without changing this one."""
        other = ServerOptimiser(self.name, self.rate, self.momentum, self.beta2, self.adaptivity, self.share)
        other.load(self.state())
        return other

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the moments ``first`` and ``second``, each name to float64 array."""
        return {"first": dict(self.first), "second": dict(self.second)}

    def load(self, state: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Restore the moments from what :meth:`state` returned."""
        self.first = {name: np.asarray(value) for name, value in state["first"].items()}
        self.second = {name: np.asarray(value) for name, value in state["second"].items()}
