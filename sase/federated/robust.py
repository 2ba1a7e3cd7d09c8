"""Robust aggregation: which share each silo's update has in the global model, so that a few cannot steer it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_WEISZFELD_STEPS = 200
_WEISZFELD_TOLERANCE = 1e-9
_WEISZFELD_SMOOTHING = 1e-6  # of the mean distance; keeps the weights finite where an update is the median itself


@dataclass(frozen=True)
class SiloUpdates:
    """The updates of a round.

    Attributes:
        alphas: α, the weight of each silo by the strategy, float64 (silos,), with sum 1.
        read: returns the updates, float64 (silos, values), which may be on disk: rules go through the rows one by one.
            Called only by rules that look at them. A rule with shares for each value gets them in blocks of columns.
        max_poisoned: largest share of the silos that is assumed to send harmful updates.
    """

    alphas: np.ndarray
    read: Callable[[], np.ndarray]
    max_poisoned: float = 0.25

    @cached_property
    def matrix(self) -> np.ndarray:
        """The updates, float64 (silos, values)."""
        return self.read()

    @property
    def num_poisoned(self) -> int:
        """The number of silos that is assumed to send harmful updates; always fewer than half of them."""
        count = len(self.alphas)
        return min(math.ceil(self.max_poisoned * count), (count - 1) // 2)


def _mean(updates: SiloUpdates) -> np.ndarray:
    """α."""
    return updates.alphas


def _clipped_mean(updates: SiloUpdates) -> np.ndarray:
    """α · min(1, median norm / own norm): longer updates are scaled down to the median norm."""
    norms = _norms(updates.matrix)
    return updates.alphas * np.minimum(1.0, np.median(norms) / np.maximum(norms, np.finfo(np.float64).tiny))


def _median(updates: SiloUpdates) -> np.ndarray:
    """The median of each value (Yin et al. 2018); α is ignored."""
    count = len(updates.alphas)
    return _between(updates.matrix, (count - 1) // 2)


def _trimmed_mean(updates: SiloUpdates) -> np.ndarray:
    """The mean of each value without the largest and smallest ``num_poisoned`` ones (Yin et al. 2018); no α."""
    return _between(updates.matrix, updates.num_poisoned)


def _between(matrix: np.ndarray, trimmed: int) -> np.ndarray:
    """Return equal shares, (silos, values), of all but the ``trimmed`` largest and smallest of each value."""
    ranks = matrix.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    inside = (ranks >= trimmed) & (ranks < len(matrix) - trimmed)
    return inside / (len(matrix) - 2.0 * trimmed)


def _krum(updates: SiloUpdates) -> np.ndarray:
    """The one update with the smallest sum of squared distances to its nearest neighbours (Blanchard et al. 2017)."""
    count = len(updates.alphas)
    neighbours = max(1, count - updates.num_poisoned - 2)
    nearest = np.sort(_squared_distances(updates.matrix), axis=1)[:, 1 : neighbours + 1]  # without itself
    return np.eye(count)[int(nearest.sum(axis=1).argmin())]


def _squared_distances(matrix: np.ndarray) -> np.ndarray:
    distances = np.zeros((len(matrix), len(matrix)))
    for index in range(len(matrix)):
        row = np.array(matrix[index])
        for other in range(index):
            distances[index, other] = distances[other, index] = np.square(matrix[other : other + 1] - row).sum(axis=1)[
                0
            ]
    return distances + distances.T


def _norms(matrix: np.ndarray, centre: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the distance of each row to the centre, float64 (silos,)."""
    return np.array([np.linalg.norm(matrix[k : k + 1] - centre, axis=1)[0] for k in range(len(matrix))])


def _geometric_median(updates: SiloUpdates) -> np.ndarray:
    """The point with the smallest sum of distances, by Weiszfeld's iteration (Pillutla et al. 2022); α is ignored."""
    matrix, count = updates.matrix, len(updates.alphas)
    shares = np.full(count, 1.0 / count)
    for _ in range(_WEISZFELD_STEPS):
        distances = _norms(matrix, shares @ matrix)
        if not distances.any():
            break
        inverse = 1.0 / np.maximum(distances, _WEISZFELD_SMOOTHING * distances.mean())
        before, shares = shares, inverse / inverse.sum()
        if np.abs(shares - before).max() < _WEISZFELD_TOLERANCE:
            break
    return shares


# Name in the configuration to a rule: updates -> the share of each silo in the sum of the updates, float64: one per
# silo, (silos,), or one per silo and value, (silos, values).
AGGREGATIONS: dict[str, Callable[[SiloUpdates], np.ndarray]] = {
    "mean": _mean,
    "clipped_mean": _clipped_mean,
    "median": _median,
    "trimmed_mean": _trimmed_mean,
    "krum": _krum,
    "geometric_median": _geometric_median,
}
