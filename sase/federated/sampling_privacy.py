"""ε of models that come from random samples of the silos (Poisson sampling), for those who do not know the samples.

The noise of the sum must not depend on how many silos are drawn, since its size would reveal that in a model of many
weights. So n silos that are drawn scale theirs such that the sum always has that of the expected number, and in a round
without a sum the server adds it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from sase.federated.loss_distribution import LossDistribution, least_step, mixture, sampled_gaussian, suitable_step

_NONE = 1e-9  # an ε below it is none
_LARGEST = 1e4  # ε that is computed
_EXP = 700.0  # exp of more leaves the float range


@dataclass(frozen=True)
class SampledRounds:
    """Rounds in each of which every silo takes part with the same probability, independently.

    Attributes:
        noise: standard deviation of the noise of the sum, in units of the norm to which a silo's update is clipped.
        probability: q.
        rounds: T.
        least: number of silos in a sum; with fewer, the round has noise only.
        others: number of all other silos.
    """

    noise: float
    probability: float
    rounds: int
    least: int = 1
    others: int = 0

    def delta(self, epsilon: float, removed: bool) -> float:
        """Return δ if one silo is removed, or added."""
        return _composed(self, removed).delta(epsilon)

    def epsilon(self, delta: float) -> float:
        """Return the smallest ε for which the models are (ε, δ)-private if a silo is added or removed."""
        return _smallest(lambda epsilon: max(self.delta(epsilon, True), self.delta(epsilon, False)) <= delta)

    def replacement_epsilon(self, delta: float) -> float:
        """Return ε for which the models are (ε, δ)-private if all data of a silo are replaced.

        To replace is to remove and to add: from (ε, δ₁) and (ε, δ₂) follows (2ε, δ₁ + exp(ε) δ₂).
        """

        def private(epsilon: float) -> bool:
            half = epsilon / 2.0
            return self.delta(half, True) + math.exp(min(half, _EXP)) * self.delta(half, False) <= delta

        return _smallest(private)

    @property
    def _decisive(self) -> float:
        """Probability that the others are just too few for a sum, so that a silo reveals their updates with its own."""
        drawn = self.least - 1
        q = self.probability
        return math.comb(self.others, drawn) * q**drawn * (1.0 - q) ** (self.others - drawn) if drawn else 0.0


@lru_cache(maxsize=16)
def _composed(of: SampledRounds, removed: bool) -> LossDistribution:
    step = max(suitable_step(of.noise, of.probability, removed), least_step(of.noise / of.least, of.probability))
    one = sampled_gaussian(of.noise, of.probability, removed, step)
    if of.least > 1:  # a round with the updates of ``least`` silos instead of none
        several = sampled_gaussian(of.noise / of.least, of.probability, removed, step)
        one = mixture([(1.0 - of._decisive, one), (of._decisive, several)])
    return one.composed(of.rounds)


def _smallest(private: Callable[[float], bool]) -> float:
    """Return the smallest ε that is private, to 1e-6 of it; inf if there is none below 1e4."""
    low, high = 0.0, 1.0
    while not private(high):
        low, high = high, 2.0 * high
        if high > _LARGEST:
            return math.inf
    while high - low > 1e-6 * high and high > _NONE:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if private(middle) else (middle, high)
    return high
