"""Bounds of the norm statistics that silos send: running means with variances or, for complex maps, covariances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sase.federated.layout import Layout

_MAX_COUNT = 2**48  # of a counter: far from where adding to it overflows
_ROUNDING = 1e-3  # by which a squared covariance may exceed the product of its variances
_TINY = 1e-12


def check_statistics(arrays: Mapping[str, np.ndarray], layout: Layout) -> None:
    """Check that variances, covariances and counters are possible ones.

    Raises:
        ValueError: names the array that is not.
    """
    for _, second in layout.moments:
        value = np.asarray(arrays[second], dtype=np.float64)
        variances = value[:2] if value.ndim == 2 else value
        if variances.min(initial=0.0) < 0:
            raise ValueError(f"{second} contains a negative variance")
        if value.ndim == 2 and (value[2] ** 2 > (1.0 + _ROUNDING) * value[0] * value[1] + _TINY).any():
            raise ValueError(f"{second} contains a covariance above its variances")
    for name in layout.counters:
        if np.min(arrays[name], initial=0) < 0 or np.max(arrays[name], initial=0) > _MAX_COUNT:
            raise ValueError(f"{name} is not a possible count")


def statistics_excess(pair: tuple[np.ndarray, np.ndarray], centre: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the largest ratio of second moments to variances: those of one silo, about the centre's means.

    A channel with a small variance is compared with the mean variance of its layer, so that a channel that is silent in
    most silos may be active in one.

    Args:
        pair: means (n,), and variances (n,) or covariances (3, n / 2) as in
            :func:`sase.federated.moments.pool_moments`, of the silo.
        centre: the same of what it is compared with.
    """
    usual = _variances(centre[1])
    moments = _variances(pair[1]) + np.square(np.asarray(pair[0], dtype=np.float64) - centre[0])
    return float(np.max(moments / np.maximum(np.maximum(usual, usual.mean()), _TINY), initial=0.0))


def _variances(second: np.ndarray) -> np.ndarray:
    """Return the variances in the order of the means, float64 (n,)."""
    value = np.asarray(second, dtype=np.float64)
    return value[:2].ravel() if value.ndim == 2 else value
