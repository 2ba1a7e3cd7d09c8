"""What every engine provides: the interface, and the error for an engine that cannot be had here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import numpy as np

from sase.errors import InputError


class EngineUnavailableError(InputError):
    """An engine cannot be had here: what is missing, and the command that brings it."""


class EngineStream(Protocol):
    """One signal block by block: the concatenated output is aligned with the input and of the same length."""

    def feed(self, wav: np.ndarray, /) -> np.ndarray:
        """Process the next samples, float32 (n,), n ≥ 0; return those that are ready, float32 (m,), m ≥ 0.

        Raises:
            ValueError: samples of another shape or type, NaN or infinity, or a stream that has been flushed.
        """

    def flush(self) -> np.ndarray:
        """Return the remaining samples, float32 (rest,); ends the signal."""

    def reset(self) -> None:
        """Return to the start of a signal."""


class Engine(ABC):
    """A network that is ready to enhance one channel at its own sample rate.

    Attributes:
        name: of the engine: ``native``, ``onnx`` or ``torch``.
        sample_rate: in Hz.
        causal: whether the network can stream.
        delay: samples by which the output of a stream lags behind its input; 0 if the network is not causal.
        latency_s: the algorithmic latency in seconds; infinite if the network is not causal.
    """

    name: ClassVar[str]
    sample_rate: int
    causal: bool = True
    delay: int
    latency_s: float

    @abstractmethod
    def stream(self) -> EngineStream:
        """Return a stream at the start of a signal; independent of all other streams.

        Raises:
            InputError: the network is not causal.
        """

    def enhance(self, wav: np.ndarray) -> np.ndarray:
        """Return the enhanced signal, float32 (time,), of a whole one, float32 (time,), time ≥ 1.

        Raises:
            ValueError: as for :meth:`EngineStream.feed`.
        """
        stream = self.stream()
        return np.concatenate([stream.feed(wav), stream.flush()])
