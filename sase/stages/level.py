"""Bring signals of any level to that of the training, causally, and what a network makes of them back.

Networks are trained with speech in a certain range of levels, and do worse outside of it. The level of the louder parts
of a signal is tracked over hops, in decibels: it follows a rise within a second and falls slowly, so that
words and pauses leave it where it is, and a click moves it little. Noise often comes before speech, so the first hops
count as 15 dB below it. The gain changes only when the scaled level is 8 dB from its target, linearly over a hop: for a
speaker who does not move it is constant. A factor on the whole signal does not change what the network receives.
"""

from __future__ import annotations

import math

import numpy as np

from sase.stages.fifo import Fifo
from sase.stages.ramps import ramp, ramps

TARGET_DB = -24.0  # level of the louder hops (mean square re full scale): speech of an RMS of about -30 dB
SILENCE_DB = -125.0  # quieter hops leave level and gain unchanged
_TOLERANCE_DB = 8.0
_FIRST_S = 0.25  # over which the first level is measured
_FIRST_DB = 15.0  # of speech above the first sound, which mostly is noise
_RISE_S = 0.5  # time constant
_FALL_DB_PER_S = 4.0


class Tracker:
    """The gain of one channel, hop by hop.

    Args:
        hop_s: duration of a hop in seconds.
    """

    def __init__(self, hop_s: float) -> None:
        self._rise = min(1.0, hop_s / _RISE_S)
        self._fall_db = _FALL_DB_PER_S * hop_s
        self._num_first = max(1, round(_FIRST_S / hop_s))
        self._num_hops = 0  # that were not silent
        self._level_db = self._gain_db = 0.0

    def next_gains(self, power: float) -> tuple[float, float]:
        """Return the gain at the beginning and at the end of the next hop, as factors, from its mean square."""
        power_db, before_db = 10.0 * math.log10(power + 1e-30), self._gain_db
        if power_db >= SILENCE_DB:
            self._num_hops += 1
            self._update_level(power_db)
            wanted_db = TARGET_DB - self._level_db
            if self._num_hops == 1:
                before_db = self._gain_db = wanted_db
            self._gain_db = min(max(before_db, wanted_db - _TOLERANCE_DB), wanted_db + _TOLERANCE_DB)
        return 10.0 ** (before_db / 20.0), 10.0 ** (self._gain_db / 20.0)

    def _update_level(self, power_db: float) -> None:
        if self._num_hops <= self._num_first:  # the mean so far
            self._level_db += (power_db + _FIRST_DB - self._level_db) / self._num_hops
        elif power_db > self._level_db:
            self._level_db += self._rise * (power_db - self._level_db)
        else:
            self._level_db = max(power_db, self._level_db - self._fall_db)


class Level:
    """The stages around a network: ``scale``, each channel by its own gain, and ``restore``, by its inverse.

    Args:
        sample_rate: of the network, in Hz.
        hop: samples over which the level is measured: those that the network takes at a time, so that waiting for all
            of them adds no delay.
        num_channels: of the signal.
    """

    def __init__(self, sample_rate: int, hop: int, num_channels: int) -> None:
        gains = Fifo(num_channels)  # of the samples that are in the network
        self.scale, self.restore = _Scale(gains, hop, hop / sample_rate, num_channels), _Restore(gains)


class _Scale:
    """Scales whole hops, and appends the gain of each sample to ``gains``."""

    def __init__(self, gains: Fifo, hop: int, hop_s: float, num_channels: int) -> None:
        self._gains, self._pending = gains, Fifo(num_channels)
        self._hop, self._ramp = hop, ramp(hop)
        self._trackers = [Tracker(hop_s) for _ in range(num_channels)]

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples; return those of whole hops, scaled."""
        self._pending.push(wav)
        whole = self._pending.pop(len(self._pending) // self._hop * self._hop)
        if whole.shape[1] == 0:
            return whole
        energy = np.square(whole, dtype=np.float64).reshape(len(whole), -1, self._hop).sum(axis=2).tolist()
        gains = [[t.next_gains(value / self._hop) for value in row] for t, row in zip(self._trackers, energy)]
        factors = ramps(np.array(gains, np.float32), self._ramp)
        self._gains.push(factors)
        return whole * factors

    def flush(self) -> np.ndarray:
        """Return the samples of the last, incomplete hop, scaled."""
        num_samples = len(self._pending)
        silence = np.zeros((len(self._trackers), -num_samples % self._hop), dtype=np.float32)
        return self.feed(silence)[:, :num_samples]


class _Restore:
    """Divides samples by their gains."""

    def __init__(self, gains: Fifo) -> None:
        self._gains = gains

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Return the next samples of a network's output, aligned with its input, at the level of that."""
        return wav / self._gains.pop(wav.shape[1])

    def flush(self) -> np.ndarray:
        """Return none."""
        return self._gains.pop(0)
