"""The running statistics of norm layers, combined over silos: means and (co)variances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


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


def robust_moments(
    means: Sequence[np.ndarray],
    seconds: Sequence[np.ndarray],
    shares: Callable[[Callable[[], np.ndarray]], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and (co)variance as :func:`pool_moments` does, but with a rule that acts on each value by itself.

    The rule is applied to the means, and then to the silos' second moments about the result.

    Args:
        means, seconds: as for :func:`pool_moments`.
        shares: returns the share of each value of the matrix, float64 (silos, values), that its argument returns.
    """

    def centre(values: Sequence[np.ndarray]) -> np.ndarray:
        matrix = np.stack([np.asarray(value, dtype=np.float64).ravel() for value in values])
        return np.sum(shares(lambda: matrix) * matrix, axis=0).reshape(np.shape(values[0]))

    mean = centre(means)
    around = [_about(mean, own, second) for own, second in zip(means, seconds)]
    second = centre(around)
    if second.ndim == 2:  # values of different silos need not form a covariance
        largest = np.sqrt(second[0] * second[1])
        second[2] = np.clip(second[2], -largest, largest)
    return mean, second


def _about(centre: np.ndarray, mean: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the second moments about another point than the mean."""
    offset, second = np.asarray(mean, dtype=np.float64) - centre, np.asarray(second, dtype=np.float64)
    if second.ndim == 1:
        return second + offset**2
    real, imag = np.split(offset, 2)
    return second + np.stack([real**2, imag**2, real * imag])
