"""Signals through a chain of stages, block by block, on numpy: float32 (channels, samples) in and out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from sase.engines import Engine
from sase.errors import InputError
from sase.hops import peak

_BLOCK = 32000  # samples of a stage's remainder that go through the following stages at a time


class Stage(Protocol):
    """Something that samples pass through; what it returns, concatenated, is the processed signal."""

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples, float32 (channels, n), n ≥ 0; return those that are ready, (channels, m), m ≥ 0."""

    def flush(self) -> np.ndarray:
        """Return the remaining samples, (channels, rest), once; ends the signal."""


class Chain:
    """Stages in sequence; itself a stage, so that a stage can wrap several others.

    Args:
        stages: in the order in which samples pass through them; at least one.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = list(stages)

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples; return those that are ready."""
        return self._pass(wav, self._stages)

    def drain(self) -> Iterator[np.ndarray]:
        """Yield what :meth:`flush` returns in blocks, so that memory stays bounded behind a stage that held much."""
        for number, stage in enumerate(self._stages, 1):
            rest = stage.flush()
            for start in range(0, rest.shape[1], _BLOCK):
                yield self._pass(rest[:, start : start + _BLOCK], self._stages[number:])
            if rest.shape[1] == 0:
                yield self._pass(rest, self._stages[number:])

    def flush(self) -> np.ndarray:
        """Return the remaining samples; ends the signal."""
        return np.concatenate(list(self.drain()), axis=1)

    @staticmethod
    def _pass(wav: np.ndarray, stages: Sequence[Stage]) -> np.ndarray:
        for stage in stages:
            wav = stage.feed(wav)
        return wav


class Streams:
    """A causal network as a stage: a stream per channel, so that no channel depends on the others.

    Args:
        engine: the network.
        num_channels: of the signal.
    """

    def __init__(self, engine: Engine, num_channels: int) -> None:
        self._streams = [engine.stream() for _ in range(num_channels)]

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples; return those that are ready; raise InputError if they are not finite."""
        return _finite([stream.feed(channel) for stream, channel in zip(self._streams, wav)])

    def flush(self) -> np.ndarray:
        """Return the remaining samples."""
        return _finite([stream.flush() for stream in self._streams])


class Whole:
    """A network as a stage that processes the whole signal at its end, as an offline network must.

    Args:
        engine: the network.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._blocks: list[np.ndarray] = []

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples; return none."""
        self._blocks.append(wav)
        return wav[:, :0]

    def flush(self) -> np.ndarray:
        """Return the whole signal; raise InputError if it is not finite."""
        wav = np.concatenate(self._blocks, axis=1)
        self._blocks.clear()
        # Channel by channel: memory does not grow with their number, and results do not depend on it.
        return _finite([self._engine.enhance(channel) for channel in wav])


def _finite(channels: list[np.ndarray]) -> np.ndarray:
    """Return the channels that a network returned, float32; raise InputError if they are not finite.

    A file would get full scale for them.
    """
    wav = np.array(channels, np.float32)
    if not math.isfinite(peak(wav)):
        raise InputError("the network's output contains NaN or infinity; use another model or lower the input's level")
    return wav
