"""The mathematics of a round: dicts of numpy arrays in, dicts of numpy arrays out, computed in float64.

Independent of networks, files and engines. Silos are passed in a fixed order, so that sums are reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sase.federated.matrices import column_blocks, matrix_on_disk
from sase.federated.moments import pool_moments, robust_moments
from sase.federated.robust import AGGREGATIONS, SiloUpdates

if TYPE_CHECKING:
    from sase.federated.layout import Layout
    from sase.federated.server_optimiser import ServerOptimiser


def softmax(logits: ArrayLike) -> np.ndarray:
    """Return ``exp(logits) / Σ exp(logits)`` as float64, without overflow."""
    logits = np.asarray(logits, dtype=np.float64)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@dataclass(frozen=True)
class SiloStatistics:
    """What a strategy may weigh the updates of a round by.

    Attributes:
        examples: n of each silo, float64 (silos,).
        losses: L, the mean loss of each silo's last local epoch, float64 (silos,).
        gains_db: q, the gain in SI-SNR of each silo's update on one common set, float64 (silos,).
        tau, gamma, alpha_min: parameters from the configuration.
    """

    examples: np.ndarray
    losses: np.ndarray
    gains_db: np.ndarray
    tau: float = 1.0
    gamma: float = 1.0
    alpha_min: float = 0.0


def _by_examples(silos: SiloStatistics) -> np.ndarray:
    """∝ n (McMahan et al. 2017)."""
    return silos.examples / silos.examples.sum()


def _uniform(silos: SiloStatistics) -> np.ndarray:
    """1/K."""
    return np.full(len(silos.examples), 1.0 / len(silos.examples))


def _by_loss(silos: SiloStatistics) -> np.ndarray:
    """∝ exp(−L/τ) (Gao et al. 2022)."""
    return softmax(-silos.losses / silos.tau)


def _fair(silos: SiloStatistics) -> np.ndarray:
    """∝ exp(+L/τ)."""
    return softmax(silos.losses / silos.tau)


def _by_gain(silos: SiloStatistics) -> np.ndarray:
    """α_min + (1 − K·α_min) · softmax(γ ln n + q/τ)."""
    weights = softmax(silos.gamma * np.log(silos.examples) + silos.gains_db / silos.tau)
    return silos.alpha_min + (1.0 - len(weights) * silos.alpha_min) * weights


# Name in the configuration to statistics -> α, float64 (silos,), positive with sum 1.
STRATEGIES: dict[str, Callable[[SiloStatistics], np.ndarray]] = {
    "examples": _by_examples,
    "uniform": _uniform,
    "loss": _by_loss,
    "fair": _fair,
    "sase": _by_gain,
}


def silo_weights(
    strategy: str,
    examples: ArrayLike,
    losses: ArrayLike | None = None,
    gains_db: ArrayLike | None = None,
    tau: float = 1.0,
    gamma: float = 1.0,
    alpha_min: float = 0.0,
    max_weight: float = 1.0,
) -> np.ndarray:
    """Return α, the weight of each silo's update; not negative, with sum 1.

    Args:
        strategy: a key of :data:`STRATEGIES`.
        examples, losses, gains_db: one value per silo, as in :class:`SiloStatistics`; None: zeros.
        tau, gamma, alpha_min: parameters of the strategies.
        max_weight: no α of K is above min(1, max(max_weight, 1.5 / K)); see :func:`limited`.

    Returns:
        float64 (silos,)

    Raises:
        ValueError: unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy: {strategy}")
    n = np.asarray(examples, dtype=np.float64)
    mean_losses, gains = (
        np.zeros_like(n) if value is None else np.asarray(value, dtype=np.float64) for value in (losses, gains_db)
    )
    alphas = STRATEGIES[strategy](SiloStatistics(n, mean_losses, gains, tau, gamma, alpha_min))
    return limited(alphas, largest_weight(max_weight, len(alphas)))


def largest_weight(max_weight: float, count: int) -> float:
    """Return the limit of the weight of each of ``count`` silos."""
    return min(1.0, max(max_weight, 1.5 / count))


def limited(alphas: np.ndarray, largest: float) -> np.ndarray:
    """Return weights of which none is above ``largest``; what a silo loses goes to the others in their proportion.

    Args:
        alphas: float64 (silos,), with sum 1; returned unchanged if all are within the limit.
        largest: above 1 / silos.
    """
    result, over = alphas, np.zeros(len(alphas), dtype=bool)
    while result.max() > largest and not (over | (result > largest)).all():
        over |= result > largest
        others = np.where(over, 0.0, alphas)
        others = others / others.sum() if others.any() else ~over / np.sum(~over)
        result = np.where(over, largest, (1.0 - largest * over.sum()) * others)
    return result


def nova_factors(alphas: ArrayLike, steps: ArrayLike) -> np.ndarray:
    """Return FedNova's factor τ_eff / τ_k of each silo's update, with τ_eff = Σ α_k τ_k (Wang et al. 2020).

    Args:
        alphas: (silos,)
        steps: τ_k, the number of optimiser steps of each silo.
    """
    steps = np.asarray(steps, dtype=np.float64)
    return float(np.dot(alphas, steps)) / steps


def bounded_factors(alphas: np.ndarray, factors: np.ndarray, norms: ArrayLike, largest: float) -> np.ndarray:
    """Return FedNova's factors, lowered for silos that would move the model by more than a share of what all do.

    A silo that claims few steps for a long update would get a factor that no limit of α bounds. Of honest silos, fewer
    steps make shorter updates, so that α_k f_k ‖Δ_k‖ differs less than the factors.

    Args:
        alphas: (silos,), with sum 1.
        factors: f_k, of :func:`nova_factors`; returned unchanged if all are within the limit.
        norms: ‖Δ_k‖, computed from the updates.
        largest: share, of :func:`largest_weight`.
    """
    moves = alphas * factors * np.asarray(norms, dtype=np.float64)
    bounded, over = moves, np.zeros(len(moves), dtype=bool)
    while (found := bounded > largest * bounded.sum() * (1.0 + 1e-9)).any():
        over |= found
        rest = 1.0 - largest * over.sum()
        if over.all() or rest <= 0.0:
            break
        bounded = np.where(over, largest / rest * moves[~over].sum(), moves)
    return np.where(over, factors * (bounded / np.where(over, moves, 1.0)), factors) if over.any() else factors


def combine(
    reference: Mapping[str, np.ndarray], silos: Sequence[Mapping[str, np.ndarray]], factors: ArrayLike
) -> dict[str, np.ndarray]:
    """Return ``w + Σ_k f_k (w_k − w)`` of float arrays.

    Computed as ``(1 − Σ f) w + Σ f_k w_k``, so that a single silo with factor 1 gives its own weights bit for bit. One
    array of one silo is read at a time.

    Args:
        reference: name to w.
        silos: for each silo, name to w_k, with at least the names of ``reference``.
        factors: (silos,)

    Returns:
        name to float64 array.
    """
    factors = np.asarray(factors)
    result = {}
    for name, value in reference.items():
        total = np.asarray((1.0 - np.sum(factors, axis=0)) * np.asarray(value, dtype=np.float64))
        for factor, arrays in zip(factors, silos):
            total += factor * np.asarray(arrays[name], dtype=np.float64)
        result[name] = total
    return result


def combine_by_value(
    reference: Mapping[str, np.ndarray],
    silos: Sequence[Mapping[str, np.ndarray]],
    alphas: np.ndarray,
    scale: np.ndarray,
    rule: Rule,
) -> dict[str, np.ndarray]:
    """Return ``w + Σ_k s_k f_k (w_k − w)`` with the shares s of a rule that acts on each value by itself.

    Args:
        reference, silos: as for :func:`combine`.
        alphas: (silos,)
        scale: f, (silos,)
        rule: the rule.

    Returns:
        name to float64 array.
    """
    factors = scale[:, None]
    result = {}
    for name, value in reference.items():
        old = np.asarray(value, dtype=np.float64)
        total, flat = np.empty(old.size), old.ravel()
        values = matrix_on_disk(([arrays[name]] for arrays in silos), rule.folder)
        for block in column_blocks(len(silos), old.size):
            new, start = values[:, block], flat[block]
            own = factors * rule.shares(alphas, _constant(factors * (new - start)))
            total[block] = (1.0 - np.sum(own, axis=0)) * start
            for factor, row in zip(own, new):
                total[block] += factor * row
        result[name] = total.reshape(old.shape)
    return result


def combine_by_layer(
    reference: Mapping[str, np.ndarray], silos: Sequence[Mapping[str, np.ndarray]], shares: np.ndarray
) -> dict[str, np.ndarray]:
    """Return ``w + Σ_k s_k (n / n_k) (w_k − w)`` for each array, with n_k the norm of ``w_k − w`` and n = Σ s_k n_k.

    The silos' updates of an array then differ in direction only, and their mean norm is kept.

    Args:
        reference, silos: as for :func:`combine`.
        shares: s, (silos,)

    Returns:
        name to float64 array.
    """
    result = {}
    for name, value in reference.items():
        norms = np.array([update_norm(reference, arrays, [name]) for arrays in silos])
        scale = np.divide(np.dot(shares, norms), norms, out=np.zeros(len(norms)), where=norms > 0)
        result.update(combine({name: value}, silos, shares * scale))
    return result


def _constant(matrix: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: matrix


def differences(
    reference: Mapping[str, np.ndarray],
    silos: Sequence[Mapping[str, np.ndarray]],
    factors: np.ndarray,
    folder: Path | None = None,
) -> np.ndarray:
    """Return ``f_k (w_k − w)``, the concatenated values of all arrays of ``reference``: float64 (silos, values).

    Args:
        reference, silos: as for :func:`combine`.
        factors: (silos,)
        folder: of the file from which the result is read, see :func:`sase.federated.matrices.matrix_on_disk`.
    """

    def row(factor: float, arrays: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
        for name, old in reference.items():
            yield factor * (np.asarray(arrays[name], dtype=np.float64) - np.asarray(old, dtype=np.float64))

    return matrix_on_disk((row(factor, arrays) for factor, arrays in zip(factors, silos)), folder)


def update_norm(reference: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> float:
    """Return the Euclidean norm of ``arrays − reference`` over the named arrays."""
    differences = (np.asarray(arrays[n], dtype=np.float64) - np.asarray(reference[n], dtype=np.float64) for n in names)
    return float(np.sqrt(sum(float(np.sum(d * d)) for d in differences)))


@dataclass(frozen=True)
class Rule:
    """How updates are combined.

    Attributes:
        aggregation: a key of :data:`sase.federated.robust.AGGREGATIONS`.
        max_poisoned: see :class:`sase.federated.robust.SiloUpdates`.
        local_norms: norm layers stay with the silos (FedBN); the global model gets their average.
        layerwise: the updates of each array are first scaled to the mean of their norms.
        folder: where a rule that looks at all updates at once keeps them on disk; None: the system's for temporary
            files.
    """

    aggregation: str = "mean"
    max_poisoned: float = 0.25
    local_norms: bool = False
    layerwise: bool = False
    folder: Path | None = None

    def is_by_value(self, count: int) -> bool:
        """Whether the shares of ``count`` silos differ from value to value, (silos, values)."""
        with np.errstate(all="ignore"):
            return self.shares(np.full(count, 1.0 / count), lambda: np.zeros((count, 1))).ndim == 2

    def shares(self, alphas: np.ndarray, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the share of each silo, (silos,) or (silos, values), in updates that ``read`` returns."""
        return AGGREGATIONS[self.aggregation](SiloUpdates(alphas, read, self.max_poisoned))


def aggregate(
    reference: Mapping[str, np.ndarray],
    silos: Sequence[Mapping[str, np.ndarray]],
    alphas: np.ndarray,
    layout: Layout,
    optimiser: ServerOptimiser,
    factors: np.ndarray | None = None,
    rule: Rule = Rule(),
) -> dict[str, np.ndarray]:
    """Return the next global model.

    Args:
        reference: the present one, name to array.
        silos: those of the silos, in the same form.
        alphas: (silos,)
        layout: of the network.
        optimiser: moves the trained weights; all other arrays are averaged.
        factors: multiply each silo's update beside α, as in FedNova.
        rule: combines the updates.

    Returns:
        name to array, with the types of ``reference``.
    """
    shared = {name: reference[name] for name in layout.shared_weights(rule.local_norms)}
    norms = {name: reference[name] for name in layout.weights if name not in shared}
    scale, ones = np.ones(len(silos)) if factors is None else factors, np.ones(len(silos))
    shares: np.ndarray | None = None
    if rule.is_by_value(len(silos)):
        combined = combine_by_value(shared, silos, alphas, scale, rule)
        result = optimiser.step(shared, combined, [combined], np.ones(1))
        result.update(combine_by_value(norms, silos, alphas, ones, rule))
    else:
        shares = rule.shares(alphas, lambda: differences(shared, silos, scale, rule.folder))
        if rule.layerwise:
            combined = combine_by_layer(shared, silos, shares)
            result = optimiser.step(shared, combined, [combined], np.ones(1))
        else:
            result = optimiser.step(shared, combine(shared, silos, shares * scale), silos, shares * scale)
        # The same for norm layers; of what remains of the updates, each silo's part.
        shares = shares if np.isclose(shares.sum(), 1.0) else shares / shares.sum()
        result.update(combine(norms, silos, shares))
    for mean, second in layout.moments:
        means, seconds = [silo[mean] for silo in silos], [silo[second] for silo in silos]
        if shares is not None:
            result[mean], result[second] = pool_moments(means, seconds, shares)
        else:
            result[mean], result[second] = robust_moments(means, seconds, partial(rule.shares, alphas))
    for name in layout.counters:
        result[name] = np.max([silo[name] for silo in silos], axis=0)
    return {name: np.asarray(result[name]).astype(reference[name].dtype) for name in layout.names}


def moving_average(
    average: Mapping[str, np.ndarray], newest: Mapping[str, np.ndarray], decay: float, layout: Layout
) -> dict[str, np.ndarray]:
    """Return ``decay · average + (1 − decay) · newest`` of two global models; norm statistics are pooled.

    Args:
        average, newest: name to array.
        decay: from 0 to 1.
        layout: of the network.

    Returns:
        name to array, with the types of ``newest``; counters are those of ``newest``.
    """
    both, shares = (average, newest), np.array([decay, 1.0 - decay])
    result = combine({name: newest[name] for name in layout.weights}, both, shares)
    for mean, second in layout.moments:
        result[mean], result[second] = pool_moments([m[mean] for m in both], [m[second] for m in both], shares)
    result.update({name: newest[name] for name in layout.counters})
    return {name: np.asarray(result[name]).astype(newest[name].dtype) for name in layout.names}
