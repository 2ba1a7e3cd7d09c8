"""The mathematics of a round: dicts of numpy arrays in, dicts of numpy arrays out, computed in float64.

Independent of networks, files and engines. Silos are passed in a fixed order, so that sums are reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

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
) -> np.ndarray:
    """Return α, the weight of each silo's update; positive, with sum 1.

    Args:
        strategy: a key of :data:`STRATEGIES`.
        examples, losses, gains_db: one value per silo, as in :class:`SiloStatistics`; None: zeros.
        tau, gamma, alpha_min: parameters of the strategies.

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
    return STRATEGIES[strategy](SiloStatistics(n, mean_losses, gains, tau, gamma, alpha_min))


def nova_factors(alphas: ArrayLike, steps: ArrayLike) -> np.ndarray:
    """Return FedNova's factor τ_eff / τ_k of each silo's update, with τ_eff = Σ α_k τ_k (Wang et al. 2020).

    Args:
        alphas: (silos,)
        steps: τ_k, the number of optimiser steps of each silo.
    """
    steps = np.asarray(steps, dtype=np.float64)
    return float(np.dot(alphas, steps)) / steps


def combine(
    reference: Mapping[str, np.ndarray], silos: Sequence[Mapping[str, np.ndarray]], factors: ArrayLike
) -> dict[str, np.ndarray]:
    """Return ``w + Σ_k f_k (w_k − w)`` of float arrays.

    Computed as ``(1 − Σ f) w + Σ f_k w_k``, so that a single silo with factor 1 gives its own weights bit for bit.

    Args:
        reference: name to w.
        silos: for each silo, name to w_k, with at least the names of ``reference``.
        factors: (silos,)

    Returns:
        name to float64 array.
    """
    factors = np.asarray(factors)
    rest = 1.0 - float(np.sum(factors))
    result = {}
    for name, value in reference.items():
        total = rest * np.asarray(value, dtype=np.float64)
        for factor, arrays in zip(factors, silos):
            total += factor * np.asarray(arrays[name], dtype=np.float64)
        result[name] = total
    return result


def pool_moments(
    means: Sequence[np.ndarray], seconds: Sequence[np.ndarray], alphas: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and (co)variance of the data of all silos combined.

    ``μ = Σ α μ_k``, ``V = Σ α (V_k + μ_k μ_kᵀ) − μ μᵀ``, computed as ``Σ α V_k + Σ α (μ_k − μ)(μ_k − μ)ᵀ``, which
    avoids cancellation.

    Args:
        means: (n,) of each silo.
        seconds: variances (n,) of each silo; or, for n / 2 complex channels (means: real half first), (3, n / 2):
            variance of the real part, variance of the imaginary part, covariance.
        alphas: (silos,)

    Returns:
        Both as float64.
    """
    alphas, means = np.asarray(alphas), [np.asarray(mean, dtype=np.float64) for mean in means]
    mean = np.asarray(sum(alpha * value for alpha, value in zip(alphas, means)))
    second = np.asarray(sum(alpha * np.asarray(value, dtype=np.float64) for alpha, value in zip(alphas, seconds)))
    for alpha, value in zip(alphas, means):
        offset = value - mean
        if second.ndim == 1:
            second = second + alpha * offset**2
        else:
            real, imag = np.split(offset, 2)
            second = second + alpha * np.stack([real**2, imag**2, real * imag])
    return mean, second


def update_norm(reference: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> float:
    """Return the Euclidean norm of ``arrays − reference`` over the named arrays."""
    differences = (np.asarray(arrays[n], dtype=np.float64) - np.asarray(reference[n], dtype=np.float64) for n in names)
    return float(np.sqrt(sum(float(np.sum(d * d)) for d in differences)))


def aggregate(
    reference: Mapping[str, np.ndarray],
    silos: Sequence[Mapping[str, np.ndarray]],
    alphas: np.ndarray,
    layout: Layout,
    optimiser: ServerOptimiser,
    factors: np.ndarray | None = None,
    local_norms: bool = False,
) -> dict[str, np.ndarray]:
    """Return the next global model.

    Args:
        reference: the present one, name to array.
        silos: those of the silos, in the same form.
        alphas: (silos,)
        layout: of the network.
        optimiser: moves the trained weights; all other arrays are averaged.
        factors: multiply each silo's update beside α, as in FedNova.
        local_norms: norm layers stay with the silos (FedBN); the global model gets their plain average.

    Returns:
        name to array, with the types of ``reference``.
    """
    shared = {name: reference[name] for name in layout.shared_weights(local_norms)}
    norms = {name: reference[name] for name in layout.weights if name not in shared}
    weighted = alphas if factors is None else alphas * factors
    result = optimiser.step(shared, combine(shared, silos, weighted), silos, weighted)
    result.update(combine(norms, silos, alphas))
    for mean, second in layout.moments:
        result[mean], result[second] = pool_moments([s[mean] for s in silos], [s[second] for s in silos], alphas)
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
