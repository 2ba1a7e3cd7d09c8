"""Gains that change linearly over the samples of hops or frames."""

from __future__ import annotations

import numpy as np


def ramp(length: int) -> np.ndarray:
    """Return float32 (length,) from 1 / ``length`` to 1."""
    return np.arange(1, length + 1, dtype=np.float32) / length


def ramps(ends: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """Return the gain of each sample, float32 (channels, hops · length).

    Args:
        ends: float32 (channels, hops, 2): the gain before a hop's first sample, and that of its last sample.
        ramp: of :func:`ramp`, (length,).
    """
    first, last = ends[..., :1], ends[..., 1:]
    return (first + (last - first) * ramp).reshape(len(ends), -1)
