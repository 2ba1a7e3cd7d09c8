"""Short-time Fourier transform with causal frames, so that streaming blocks and whole signals agree."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from sase.nn.precision import outside_autocast

_Count = TypeVar("_Count", int, torch.Tensor)


class STFT(nn.Module):
    """Analysis and synthesis with perfect reconstruction.

    Frame t covers the samples from ``t · hop − (window − hop)`` to ``t · hop + hop``, zeros outside the signal; the
    latency of a causal network is therefore one window.

    Args:
        window: length in samples, a multiple of ``hop``.
        hop: distance between frames in samples.
        fft: length of the transform, at least ``window``.
        root: use the square root of the Hann window, for 50 % overlap.
    """

    analysis: torch.Tensor
    synthesis: torch.Tensor

    def __init__(self, window: int, hop: int, fft: int, root: bool = False) -> None:
        super().__init__()
        if window % hop or window < 2 * hop or fft < window:
            raise ValueError(f"STFT needs window = k · hop, k ≥ 2, and fft ≥ window; got {window}, {hop}, {fft}")
        self.window, self.hop, self.fft = window, hop, fft
        analysis = torch.hann_window(window, dtype=torch.float64)
        if root:
            analysis = analysis.sqrt()
        overlap = analysis.square().view(-1, hop).sum(0).repeat(window // hop)  # period: one hop
        self.register_buffer("analysis", analysis.float(), persistent=False)
        self.register_buffer("synthesis", (analysis / overlap).float(), persistent=False)

    @property
    def context(self) -> int:
        """The number of samples that a frame covers before its own hop."""
        return self.window - self.hop

    def num_frames(self, num_samples: _Count) -> _Count:
        """Return the number of frames that cover ``num_samples`` (an int or an integer tensor)."""
        return (num_samples - 1 + self.context) // self.hop + 1

    @outside_autocast
    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """Analyse.

        Args:
            wav: (batch, context + frames · hop): the samples of the frames, preceded by their context.

        Returns:
            complex64 (batch, fft // 2 + 1, frames)
        """
        frames = wav.unfold(-1, self.window, self.hop) * self.analysis  # (batch, frames, window)
        return torch.fft.rfft(frames, n=self.fft).transpose(1, 2)

    @outside_autocast
    def inverse(self, spec: torch.Tensor) -> torch.Tensor:
        """Synthesise by overlap-add.

        Args:
            spec: complex (batch, fft // 2 + 1, frames)

        Returns:
            (batch, frames · hop + context): the first and the last ``context`` samples are incomplete until the
            neighbouring blocks are added.
        """
        frames = torch.fft.irfft(spec.transpose(1, 2), n=self.fft)[..., : self.window] * self.synthesis
        parts = frames.unflatten(-1, (-1, self.hop))  # (batch, frames, parts, hop)
        count = parts.shape[2]
        shifted = [F.pad(parts[:, :, i], (0, 0, i, count - 1 - i)) for i in range(count)]
        return sum(shifted[1:], shifted[0]).flatten(1)
