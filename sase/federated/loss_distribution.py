"""Privacy loss distributions: what a mechanism that is repeated on random samples reveals, to within 1 per cent.

For two neighbouring inputs with output distributions P and Q the privacy loss is ln P(x)/Q(x) with x drawn from P. The
losses of independent rounds add up, so that their distributions are convolved, and δ(ε) = E[(1 − exp(ε − loss))₊]. They
are kept on a grid: each bin's mass of P is split between its two ends such that its mass of Q is kept as well, which
gives δ from above for every ε ("connect the dots", Doroshenko et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_DELTA = 1e-10  # for which the rounding of a convolution by FFT is negligible
_TAIL = 1e-16  # mass that may be left out, and is counted as if it revealed everything
_REACH = 9.0  # standard deviations of the Gaussian, beyond which there is less
_STEPS_PER_DEVIATION = 25.0  # of the grid in the standard deviation of one round's loss
_MAX_BINS = 2**20
_LEAST_LOSS = 1e-300
_EXP = 600.0  # exp of it is within the float range, and so is a sum
_TILTS = np.geomspace(1e-2, 1e5, 60)  # of the Chernoff bounds


@dataclass(frozen=True)
class LossDistribution:
    """The privacy loss of a mechanism.

    Attributes:
        step: of the grid.
        first: the smallest loss is ``first · step``.
        masses: probability of each loss from there on, float64 (n,).
        infinite: probability of an infinite loss.
    """

    step: float
    first: int
    masses: np.ndarray
    infinite: float

    @property
    def losses(self) -> np.ndarray:
        """The losses on the grid, float64 (n,)."""
        return self.step * (self.first + np.arange(len(self.masses)))

    def delta(self, epsilon: float) -> float:
        """Return the smallest δ for which the mechanism is (ε, δ)-private."""
        start = min(max(math.floor(epsilon / self.step) - self.first, 0), len(self.masses))
        losses = self.step * (self.first + np.arange(start, len(self.masses)))
        return self.infinite + float(np.sum(-np.expm1(-np.maximum(losses - epsilon, 0.0)) * self.masses[start:]))

    def composed(self, count: int) -> LossDistribution:
        """Return the distribution of ``count`` independent rounds."""
        low, high = self._range(count)
        first, size = math.floor(low / self.step), len(self.masses)
        wanted = max(size, math.ceil(high / self.step) - first + 2)
        bins = 1 << (wanted - 1).bit_length()
        spectrum = np.fft.rfft(self.masses, bins) ** count
        circular = np.maximum(np.fft.irfft(spectrum, bins), 0.0)
        masses = np.roll(circular, count * self.first - first)
        infinite = -math.expm1(count * math.log1p(-self.infinite)) + _TAIL
        return LossDistribution(self.step, first, masses, infinite)

    def _range(self, count: int) -> tuple[float, float]:
        """Return bounds beyond which a sum of ``count`` losses has less than :data:`_TAIL`, by Chernoff's bound."""
        losses, masses = self.losses[self.masses > 0], self.masses[self.masses > 0]

        def bound(sign: float) -> float:
            largest = max(float(np.abs(losses).max()), _LEAST_LOSS)
            tilts = _TILTS[_TILTS * largest < _EXP]
            moments = np.array([math.log(float(np.sum(masses * np.exp(sign * tilt * losses)))) for tilt in tilts])
            return float(np.min((count * moments - math.log(_TAIL)) / tilts))

        lowest, highest = count * float(losses[0]), count * float(losses[-1])
        return max(lowest, -bound(-1.0)), min(highest, bound(1.0))


def mixture(parts: Sequence[tuple[float, LossDistribution]]) -> LossDistribution:
    """Return the distribution of a mechanism chosen at random, if which one it was is revealed.

    Args:
        parts: (probability, distribution) of each; all with the same step.
    """
    first = min(part.first for _, part in parts)
    masses = np.zeros(max(part.first + len(part.masses) for _, part in parts) - first)
    for weight, part in parts:
        start = part.first - first
        masses[start : start + len(part.masses)] += weight * part.masses
    infinite = sum(weight * part.infinite for weight, part in parts)
    return LossDistribution(parts[0][1].step, first, masses, infinite)


def sampled_gaussian(noise: float, probability: float, removed: bool, step: float) -> LossDistribution:
    """Return the loss of the Gaussian mechanism on a Poisson sample, for a member that is removed or added.

    With the member, x ~ (1 − q) N(0, σ²) + q N(1, σ²), without it, x ~ N(0, σ²): this pair bounds all others (Zhu, Dong
    and Wang 2022, theorem 11).

    Args:
        noise: σ, in units of the member's largest contribution.
        probability: q, with which the member is in the sample; above 0, at most 1.
        removed: P is with the member and Q without; False: the reverse.
        step: of the grid.
    """
    highest = _loss(1.0 + _REACH * noise, noise, probability)
    lowest = _loss(-_REACH * noise, noise, probability)
    edges = np.arange(math.floor(lowest / step), math.ceil(highest / step) + 1)
    points = _point(step * edges, noise, probability)
    without = _masses(points, 0.0, noise)
    member = (1.0 - probability) * without + probability * _masses(points, 1.0, noise)
    own, other = (member, without) if removed else (without[::-1], member[::-1])
    first = int(edges[0]) if removed else -int(edges[-1])
    # The outermost bins have what is beyond the first and the last edge.
    low, inner, high = own[0], own[1:-1], own[-1]
    ratio = step * (first + np.arange(len(inner) + 1))
    right = (inner * np.exp(-ratio[:-1]) - other[1:-1]) / -np.expm1(-step)  # in units of exp(loss at the left end)
    upper = np.clip(right * np.exp(ratio[:-1]), 0.0, inner)
    masses = np.zeros(len(ratio))
    masses[1:] += upper
    masses[:-1] += inner - upper
    masses[0] += low
    return LossDistribution(step, first, masses, float(high))


def suitable_step(noise: float, probability: float, removed: bool) -> float:
    """Return a step for :func:`sampled_gaussian` that is small against the standard deviation of the loss."""
    x = np.linspace(-_REACH * noise, 1.0 + _REACH * noise, 4001)
    losses = np.array([_loss(value, noise, probability) for value in x])
    density = np.exp(-0.5 * (x / noise) ** 2)
    if removed:
        density += probability * (np.exp(-0.5 * ((x - 1.0) / noise) ** 2) - density)
    density /= density.sum()
    mean = float(np.sum(density * losses))
    deviation = math.sqrt(float(np.sum(density * (losses - mean) ** 2)))
    return max(deviation / _STEPS_PER_DEVIATION, least_step(noise, probability))


def least_step(noise: float, probability: float) -> float:
    """Return the smallest step with which :func:`sampled_gaussian` takes a bounded amount of memory."""
    return (_loss(1.0 + _REACH * noise, noise, probability) - _loss(-_REACH * noise, noise, probability)) / _MAX_BINS


def _loss(x: float, noise: float, probability: float) -> float:
    """Return ln(1 − q + q exp((2x − 1) / 2σ²)), which grows with x."""
    exponent = (x - 0.5) / noise**2
    if exponent > 0:  # without overflow
        return exponent + math.log(probability + (1.0 - probability) * math.exp(-exponent))
    return math.log1p(probability * math.expm1(exponent))


def _point(losses: np.ndarray, noise: float, probability: float) -> np.ndarray:
    """Return the x of these losses; −∞ for losses that are below all."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        large = losses + np.log1p(-(1.0 - probability) * np.exp(-losses))
        exponent = np.where(losses > 1.0, large, np.log1p(np.expm1(losses) / probability) + math.log(probability))
        exponent = exponent - math.log(probability)
    return np.where(np.isnan(exponent), -np.inf, 0.5 + noise**2 * exponent)


def _masses(points: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Return the mass of a normal distribution below the first point, between the points, and above the last one."""
    z = np.concatenate([[-np.inf], (points - mean) / deviation, [np.inf]])
    below, above = _tail(-z), _tail(z)
    right = z[:-1] > 0
    return np.where(right, above[:-1] - above[1:], below[1:] - below[:-1])


_tail = np.vectorize(lambda z: 0.5 * math.erfc(z / math.sqrt(2.0)), otypes=[float])
