"""Keep what a signal has above the band of the network: turned down with the noise, not cleaned.

A network for 16 kHz knows nothing above 8 kHz. The band above gets the gain that the network has at 6-8 kHz, in frames
of 8 ms. The bands meet at 7.0-7.3 kHz, below the transition band of the resamplers. With the gain g over time, the
input x and output y of the network, and a low-pass filter L at that crossover, the result is

    g · x + resampled(L(y - g · x)),

which is y below the crossover and g · x above it, and needs no resampler besides that of y.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from sase.stages.fifo import Fifo, Tap
from sase.stages.ramps import ramp, ramps

_FRAME = 128  # samples of the network's rate for each of which there is a gain
_BLOCK = 2 * _FRAME  # samples that are processed at a time
_BAND = 0.75  # of half the network's rate: from here on up the gain is measured
_CROSSOVER = (0.875, 0.9125)
_CROSSOVER_TAPS, _BAND_TAPS = 193, 31  # odd
_KAISER = 5.0  # window of the filters: 50 dB
_SILENCE = 1e-18  # energy of a frame in the band
_DELAY = _CROSSOVER_TAPS // 2


class Highs:
    """The stages around a network that keep the highs of one signal: they share its input and its gain.

    They stand at these places: ``split``, resampler to the network's rate, ``tap``, network, ``difference``, resampler
    to the signal's rate, ``join``.

    Args:
        sample_rate: of the signal in Hz, above ``network_rate``.
        network_rate: of the network in Hz.
        num_channels: of the signal.
    """

    def __init__(self, sample_rate: int, network_rate: int, num_channels: int) -> None:
        wide, narrow, gains = (Fifo(num_channels) for _ in range(3))
        gains.push(np.zeros((num_channels, 1), dtype=np.float32))  # before the signal
        self.split, self.tap = Tap(wide), Tap(narrow)
        self.difference = _Difference(narrow, gains, num_channels)
        self.join = _Join(wide, gains, network_rate / sample_rate)


class _Difference:
    """From y to L(y - g · x), aligned with y; appends g at the end of each frame to ``gains``."""

    def __init__(self, narrow: Fifo, gains: Fifo, num_channels: int) -> None:
        self._narrow, self._gains, self._pending = narrow, gains, Fifo(num_channels)
        self._band_x, self._band_y = (_Fir(_high_pass(_BAND, _BAND_TAPS), num_channels) for _ in range(2))
        self._crossover = _Fir(_low_pass(sum(_CROSSOVER) / 2, _CROSSOVER_TAPS), num_channels)
        self._last_gains, self._ramp = [0.0] * num_channels, ramp(_FRAME)
        self._to_drop, self._missing = _DELAY, 0

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples of y; return those that are ready."""
        self._pending.push(wav)
        self._missing += wav.shape[1]
        used = len(self._pending) // _BLOCK * _BLOCK
        y, x = self._pending.pop(used), self._narrow.pop(used)
        if used == 0:
            return y
        ends = self._measured(x, y)
        self._gains.push(ends[..., 1])
        ready = self._crossover(y - ramps(ends, self._ramp) * x)[:, self._to_drop :]
        self._to_drop -= used - ready.shape[1]
        self._missing -= ready.shape[1]
        return ready

    def flush(self) -> np.ndarray:
        """Return the remaining samples."""
        missing, silence = self._missing, np.zeros((len(self._last_gains), 2 * _BLOCK), dtype=np.float32)
        self._narrow.push(silence)
        return self.feed(silence)[:, :missing]

    def _measured(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the gain before and at the end of each frame, at most 1, float32 (channels, frames, 2).

        Where x is silent, the gain stays.
        """
        powers_x, powers_y = (
            np.square(wav).reshape(len(wav), -1, _FRAME).sum(axis=2).tolist()
            for wav in (self._band_x(x), self._band_y(y))
        )
        ends = []
        for channel, frames in enumerate(zip(powers_x, powers_y)):
            gains = [self._last_gains[channel]]
            for power_x, power_y in zip(*frames):
                gains.append(min(1.0, math.sqrt(power_y / power_x)) if power_x > _SILENCE else gains[-1])
            self._last_gains[channel] = gains[-1]
            ends.append(list(pairwise(gains)))
        return np.array(ends, np.float32)


class _Join:
    """Adds the signal times its gain to what the resampler returns."""

    def __init__(self, wide: Fifo, gains: Fifo, rate_ratio: float) -> None:
        self._wide, self._gains, self._rate_ratio = wide, gains, rate_ratio
        self._num_joined = self._num_left = 0  # samples, and gains that have left the Fifo

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples of the resampled difference; return as many enhanced ones, aligned with the signal."""
        wide = self._wide.pop(wav.shape[1])
        num_samples = wide.shape[1]
        first, step = (self._num_joined * self._rate_ratio + 1.0) / _FRAME - self._num_left, self._rate_ratio / _FRAME
        places = first + step * np.arange(num_samples)
        joined = wav[:, :num_samples] + _interpolated(self._gains.peek(), places) * wide
        self._num_joined += num_samples
        self._num_left += self._gains.pop(int(places[-1]) if num_samples else 0).shape[1]
        return joined

    def flush(self) -> np.ndarray:
        """Return none."""
        return self._wide.pop(0)


class _Fir:
    """A filter with state.

    Args:
        taps: (n,).
        num_channels: of the signal.
    """

    def __init__(self, taps: np.ndarray, num_channels: int) -> None:
        self._taps = taps.astype(np.float32)
        self._before = np.zeros((num_channels, len(taps) - 1), dtype=np.float32)

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        """Return the next samples, (channels, m), m ≥ 1, filtered and thereby delayed by half of the taps."""
        wav = np.concatenate([self._before, wav], axis=1)
        self._before = wav[:, 1 - len(self._taps) :]
        return np.array([np.convolve(channel, self._taps, "valid") for channel in wav])


def _low_pass(cutoff: float, num_taps: int) -> np.ndarray:
    """Return the taps of a windowed-sinc low-pass filter with its cutoff in units of half the sample rate."""
    time = np.arange(num_taps) - num_taps // 2
    return cutoff * np.sinc(cutoff * time) * np.kaiser(num_taps, _KAISER)


def _high_pass(cutoff: float, num_taps: int) -> np.ndarray:
    """Return the complement of :func:`_low_pass`."""
    return (np.arange(num_taps) == num_taps // 2) - _low_pass(cutoff, num_taps)


def _interpolated(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return each row of (channels, n) at fractional indices, linearly interpolated, float32 (channels, places)."""
    indices = np.arange(values.shape[1])
    return np.array([np.interp(places, indices, channel) for channel in values], np.float32)
