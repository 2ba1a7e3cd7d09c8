"""Change the sample rate, of whole signals and block by block."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

RESAMPLER = f"soxr {soxr.__version__} HQ"


def resample(wav: npt.ArrayLike, from_rate: int, to_rate: int) -> np.ndarray:
    """Return ``wav`` (..., time) at another rate, float32, resampled by soxr HQ; unchanged if rates are equal."""
    wav = np.asarray(wav, dtype=np.float32)
    if from_rate == to_rate:
        return wav
    if wav.ndim == 1:
        return soxr.resample(wav, from_rate, to_rate)
    return np.ascontiguousarray(soxr.resample(np.ascontiguousarray(wav.T), from_rate, to_rate).T)


class Resampler:
    """Resamples a signal block by block; the concatenated output equals :func:`resample` of the whole.

    Args:
        from_rate, to_rate: in Hz; equal rates pass samples unchanged.
        num_channels: of the signal.
    """

    def __init__(self, from_rate: int, to_rate: int, num_channels: int) -> None:
        self._stream: soxr.ResampleStream | None = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, num_channels, dtype="float32")
        self._num_channels = num_channels

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples, float32 (channels, n); return the samples that are ready, (channels, m), m ≥ 0."""
        return wav if self._stream is None else _resample_chunk(self._stream, wav)

    def flush(self) -> np.ndarray:
        """Return the remaining samples, (channels, rest)."""
        silence = np.zeros((self._num_channels, 0), dtype=np.float32)
        return silence if self._stream is None else _resample_chunk(self._stream, silence, last=True)


def _resample_chunk(stream: soxr.ResampleStream, wav: np.ndarray, last: bool = False) -> np.ndarray:
    return np.ascontiguousarray(stream.resample_chunk(np.ascontiguousarray(wav.T), last).T)
