"""Whether there is anything to learn from a silo's audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from sase.data.dataset import PairSet

_FRAME_S = 0.02
_LEAST_FRAMES = 25
_FLOOR_DB = -100.0  # of silent frames
_SILENCE_RMS = 1e-4  # −80 dB full scale: three steps of 16 bits, 20 dB below very faint speech


def utterances(pairs: PairSet, indices: Iterable[int] | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the noisy and the clean audio of utterances, each float32 (time,).

    Args:
        pairs: the set.
        indices: of the utterances; None for all.
    """
    start = torch.zeros(1, dtype=torch.long, device=pairs.device)
    for index in range(len(pairs)) if indices is None else indices:
        noisy, clean, _ = pairs.segments(start + index, start, int(pairs.lengths[index]))
        yield noisy[0], clean[0]


def is_audible(wav: torch.Tensor) -> bool:
    """Return whether audio, (time,) in [-1, 1], is not silent: losses ignore silent utterances."""
    return bool(wav.numel()) and float(wav.std(correction=0)) > _SILENCE_RMS


def levels(wav: torch.Tensor, sample_rate: int) -> tuple[float, float] | None:
    """Return the levels of audio in its pauses and in its syllables, in dB full scale.

    These are the 10th and the 95th percentile over frames of 20 ms. Between them are more than 25 dB in clean speech,
    and less than 11 dB in stationary noise.

    Args:
        wav: (time,) in [-1, 1].
        sample_rate: in Hz.

    Returns:
        None for less than half a second.
    """
    size = round(_FRAME_S * sample_rate)
    frames = wav[: len(wav) // size * size].reshape(-1, size)
    if len(frames) < _LEAST_FRAMES:
        return None
    decibels = 10.0 * (frames.square().mean(1) + 10.0 ** (_FLOOR_DB / 10.0)).log10()
    return float(decibels.quantile(0.1)), float(decibels.quantile(0.95))
