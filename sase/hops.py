"""A signal block by block through a function of one hop, whose output lags behind its input."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from sase.errors import InputError

MAX_SAMPLE = 1e12  # as in sase.c; squares of larger ones are not far from the end of float32


def peak(wav: np.ndarray) -> float:
    """Return the largest magnitude of samples of any shape: NaN if one is NaN, 0 if there are none."""
    return float(np.abs(wav).max(initial=0.0))


class HopStream(ABC):
    """Enhances a signal block by block: the concatenated output is aligned with the input and of the same length.

    Args:
        hop: samples that are processed at a time.
        delay: samples by which the output of :meth:`_process` lags behind its input.
    """

    def __init__(self, hop: int, delay: int) -> None:
        self._hop, self._delay = hop, delay
        self._start()

    @abstractmethod
    def _process(self, samples: np.ndarray) -> np.ndarray:
        """Return the output, float32 (hops · hop,), of as many samples."""

    @abstractmethod
    def _reset(self) -> None:
        """Return the state behind :meth:`_process` to the start of a signal."""

    def reset(self) -> None:
        """Return to the start of a signal."""
        self._reset()
        self._start()

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Process the next samples; return the enhanced samples available so far, float32 (m,), m ≥ 0.

        Args:
            wav: floats in [-1, 1], (n,), n ≥ 0.

        Raises:
            InputError: samples that are NaN, infinite or beyond 1e12; the state of the stream is unchanged.
            ValueError: another shape or type, or a stream that has been flushed; the same.
        """
        wav = np.asarray(wav)
        if wav.ndim != 1 or wav.dtype.kind != "f":
            raise ValueError(f"feed needs floats (n,), got {wav.dtype} {wav.shape}")
        if self._flushed:
            raise ValueError("the stream has been flushed; reset it for the next signal")
        if not peak(wav) <= MAX_SAMPLE:
            raise InputError("samples contain NaN, infinity or magnitudes beyond 1e12")
        self._num_fed += len(wav)
        return self._advance(wav.astype(np.float32, copy=False))

    def flush(self) -> np.ndarray:
        """Return the remaining samples, float32 (rest,): the output is then as long as the input. Ends the stream."""
        missing = max(0, self._num_fed - self._num_returned)
        self._flushed = True
        return self._advance(np.zeros(missing + self._to_drop + self._hop, np.float32))[:missing]

    def _start(self) -> None:
        self._pending = np.zeros(0, np.float32)
        self._num_fed = self._num_returned = 0
        self._to_drop = self._delay  # output samples that precede the signal
        self._flushed = False

    def _advance(self, wav: np.ndarray) -> np.ndarray:
        """Process the whole hops of the pending samples and these; return their output."""
        pending = np.concatenate([self._pending, wav]) if len(self._pending) else wav
        used = len(pending) // self._hop * self._hop
        enhanced = self._process(pending[:used])
        self._pending = pending[used:].copy()
        dropped = min(self._to_drop, used)
        self._to_drop -= dropped
        self._num_returned += used - dropped
        return enhanced[dropped:]
