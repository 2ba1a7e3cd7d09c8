"""Samples that wait until those that they are aligned with have passed through other stages."""

from __future__ import annotations

import numpy as np


class Fifo:
    """Samples, float32 (channels, n), that leave in the order in which they came.

    Args:
        num_channels: of the samples.
    """

    def __init__(self, num_channels: int) -> None:
        self._wav = np.zeros((num_channels, 0), dtype=np.float32)

    def __len__(self) -> int:
        """Return the number of samples per channel."""
        return self._wav.shape[1]

    def push(self, wav: np.ndarray) -> None:
        """Append a copy of samples (channels, n): the caller may reuse its buffer."""
        self._wav = np.concatenate([self._wav, wav], axis=1)

    def pop(self, num_samples: int) -> np.ndarray:
        """Remove and return the first samples, (channels, ``num_samples``) or all if there are fewer."""
        wav, self._wav = self._wav[:, :num_samples], self._wav[:, num_samples:]
        return wav

    def peek(self) -> np.ndarray:
        """Return all samples that wait, (channels, n); they stay."""
        return self._wav


class Tap:
    """A stage that passes samples on and keeps them.

    Args:
        kept: where to.
    """

    def __init__(self, kept: Fifo) -> None:
        self._kept = kept

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Return the samples."""
        self._kept.push(wav)
        return wav

    def flush(self) -> np.ndarray:
        """Return none."""
        return self._kept.pop(0)
