"""How the server moves the global model along the averaged update (Reddi et al. 2021)."""

import numpy as np

from sase.federated.aggregation import combine


class ServerOptimiser:
    """``plain``: w ← w + η Δ; ``momentum``: m ← β m + Δ, w ← w + η m; ``adam`` and ``yogi``: w ← w + η m / (√v + ε).

    There m ← β m + (1 − β) Δ, without bias correction, and v starts from ε². ``adam``: v ← β₂ v + (1 − β₂) Δ²;
    ``yogi``: v ← v − (1 − β₂) Δ² sign(v − Δ²). Norm statistics never come here: a variance would turn negative.

    Args:
        name: which of them.
        rate: η.
        momentum: β.
        beta2: β₂.
        adaptivity: ε.
    """

    def __init__(self, name="plain", rate=1.0, momentum=0.9, beta2=0.99, adaptivity=1e-3):
        self.name, self.rate, self.momentum, self.beta2, self.adaptivity = name, rate, momentum, beta2, adaptivity
        self.first, self.second = {}, {}

    def step(self, weights, average, silos, factors):
        """Return the next weights.

        Args:
            weights: the global ones, name to array.
            average: ``w + Σ f_k (w_k − w)``, as :func:`sase.federated.aggregation.combine` gives it.
            silos, factors: what it was made of.

        Returns:
            name to float64 array.
        """
        if self.name == "plain":
            # With η = 1 no sum is made twice, so that a single silo's weights come out to the bit.
            return average if self.rate == 1.0 else combine(weights, silos, self.rate * np.asarray(factors))
        result = {}
        for name, value in weights.items():
            old = np.asarray(value, dtype=np.float64)
            result[name] = old + self.rate * self._direction(name, average[name] - old)
        return result

    def _direction(self, name, delta):
        first = self.first.get(name, np.zeros_like(delta))
        if self.name == "momentum":
            self.first[name] = self.momentum * first + delta
            return self.first[name]
        self.first[name] = self.momentum * first + (1.0 - self.momentum) * delta
        second, square = self.second.get(name, np.full_like(delta, self.adaptivity**2)), delta**2
        if self.name == "adam":
            self.second[name] = self.beta2 * second + (1.0 - self.beta2) * square
        else:
            self.second[name] = second - (1.0 - self.beta2) * square * np.sign(second - square)
        return self.first[name] / (np.sqrt(self.second[name]) + self.adaptivity)

    def state(self):
        """Return what :meth:`load` takes: ``first`` and ``second``, name to float64 array."""
        return {"first": dict(self.first), "second": dict(self.second)}

    def load(self, state):
        """Go on from a state."""
        self.first = {name: np.asarray(value) for name, value in state["first"].items()}
        self.second = {name: np.asarray(value) for name, value in state["second"].items()}
