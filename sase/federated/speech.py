"""Whether there is anything to learn from a silo's audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from sase.data.dataset import PairSet

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
