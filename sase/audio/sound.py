"""What every reader of sound files provides, and the limits for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sase.audio.kinds import Kind
from sase.errors import InputError

MIN_RATE, MAX_RATE = 1000, 768000  # Hz
MAX_CHANNELS = 64


@dataclass(frozen=True)
class AudioInfo:
    """The header of a sound file."""

    sample_rate: int
    num_samples: int
    num_channels: int

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate


class Sound(Protocol):
    """An open sound file.

    Attributes:
        path: of the file.
        info: its header; ``num_samples`` is an estimate if the file is compressed or truncated.
        kind: of the file.
    """

    path: Path
    info: AudioInfo
    kind: Kind

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield all samples, float32 (up to ``size``, channels); raise InputError if some are bad or missing."""


def check_limits(where: str | Path, sample_rate: int, num_channels: int = 1) -> None:
    """Raise InputError, naming ``where``, unless a sample rate (Hz) and a number of channels are within the limits."""
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise InputError(f"{where}: has {sample_rate} Hz, must have {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise InputError(f"{where}: has {num_channels} channels, must have 1 to {MAX_CHANNELS}")
