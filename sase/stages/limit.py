"""An attenuation limit: some of the unprocessed signal remains in the enhanced one."""

from __future__ import annotations

import numpy as np

from sase.stages.fifo import Fifo, Tap


class Limit:
    """The stages ``tap`` at the input x and ``mix`` at the aligned output y, which returns y + 10^(-limit/20) (x - y).

    Args:
        limit_db: by how many decibels noise is attenuated at most, ≥ 0.
        num_channels: of the signal.
    """

    def __init__(self, limit_db: float, num_channels: int) -> None:
        noisy = Fifo(num_channels)
        self.tap, self.mix = Tap(noisy), _Mix(noisy, 10.0 ** (-limit_db / 20.0))


class _Mix:
    def __init__(self, noisy: Fifo, share: float) -> None:
        self._noisy, self._share = noisy, np.float32(share)

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples of the output; return them with their share of the input."""
        noisy = self._noisy.pop(wav.shape[1])
        wav = wav[:, : noisy.shape[1]]  # resamplers round lengths up
        return wav + self._share * (noisy - wav)

    def flush(self) -> np.ndarray:
        """Return none."""
        return self._noisy.pop(0)
