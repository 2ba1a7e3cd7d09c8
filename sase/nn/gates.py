"""TF-GA, time-frequency gated attention: a gate per frequency and a gate per frame for complex maps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from sase.nn.complex import magnitude
from sase.nn.streaming import StreamingLayer, StreamState, decayed_count, decayed_sum, prepend_past

_OPEN = 2.0  # initial logit of a gate: nearly open, so that a new network passes its signal


class TFGA(StreamingLayer):
    """Gate a complex map by frequency and by frame; both parts by the same gate, so the phase stays (after the paper).

    |z| is pooled over channels, by maximum and mean. Its average over time, a convolution over frequency and a sigmoid
    give the gate of each frequency; its average over frequency and the same over time give the gate of each frame.
    (Pooling before averaging, not after: one small map then serves both gates, at a third of the cost.)

    Args:
        frames_per_s: frame rate, for the time constant of one second.
        causal: exponential average over time and convolution over past frames; otherwise over the whole utterance and
            centred.
        kernel: size of both convolutions, odd.
    """

    def __init__(self, frames_per_s: float, causal: bool = True, kernel: int = 7) -> None:
        super().__init__()
        self.causal, self.kernel = causal, kernel
        self.decay = math.exp(-1.0 / frames_per_s)
        self.frequency = nn.Conv2d(2, 1, (kernel, 1), padding=(kernel // 2, 0))
        self.time = nn.Conv1d(2, 1, kernel)
        for conv in (self.frequency, self.time):
            assert conv.bias is not None
            nn.init.constant_(conv.bias, _OPEN)

    def gates(
        self, z: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both gates.

        Args:
            z: (batch, 2 · channels, freq, time)
            state: streaming state, see :mod:`sase.nn`.
            valid: (batch, time), 1 for frames of the utterance and 0 for padding; required if not causal.

        Returns:
            The gate of each frequency (batch, 1, freq, time or 1) and of each frame (batch, 1, 1, time), in (0, 1).
        """
        size = magnitude(z)
        pooled = torch.stack([size.amax(dim=1), size.mean(dim=1)], dim=1)  # (batch, 2, freq, time)
        frequency = torch.sigmoid(self.frequency(self._average_over_time(pooled, state, valid)))
        frames = pooled.mean(dim=2)  # (batch, 2, time)
        if self.causal:
            frames = prepend_past(frames, self.kernel - 1, state, self.key("frames"))
        else:
            frames = frames if valid is None else frames * valid[:, None]
            frames = F.pad(frames, (self.kernel // 2, self.kernel // 2))
        time = torch.sigmoid(self.time(frames))
        return frequency, time[:, :, None]

    def forward(
        self, z: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the gated map, of the shape of ``z``; arguments as for :meth:`gates`."""
        frequency, time = self.gates(z, state, valid)
        return z * (frequency * time)

    def _average_over_time(
        self, pooled: torch.Tensor, state: StreamState | None, valid: torch.Tensor | None
    ) -> torch.Tensor:
        if not self.causal:
            if valid is None:
                return pooled.mean(dim=-1, keepdim=True)
            valid = valid[:, None, None]
            return (pooled * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
        total = decayed_sum(pooled.transpose(-1, -2), self.decay, state, self.key("sum")).transpose(-1, -2)
        return total / decayed_count(pooled.shape[-1], self.decay, pooled, state, self.key("count"))
